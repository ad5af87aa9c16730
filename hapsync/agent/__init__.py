"""The agent: one thread that owns all state, and its actions."""
