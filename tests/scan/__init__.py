"""What `add server` does that no reply shows, scanned on one HAProxy after the other; see `python -m tests.scan`."""
