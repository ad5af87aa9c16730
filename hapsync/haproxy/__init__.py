"""HAProxy: its runtime socket, its master, its configuration."""
