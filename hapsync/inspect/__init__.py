"""The views of `status` and `check`."""
