"""The file hapsync.toml: its schema, and its parser."""
