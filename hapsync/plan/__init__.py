"""The plan of a pass, made from the catalog and from HAProxy's servers; this package is pure."""
