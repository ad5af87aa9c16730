"""From the catalog and the servers of HAProxy to the plan of a pass: pure."""
