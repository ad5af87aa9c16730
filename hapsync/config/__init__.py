"""hapsync.toml: its schema, and how it is read."""
