"""What `status` and `check` see."""
