"""The agent: one thread that owns all state, and what it does."""
