"""The agent's own socket: what operators ask of it, and the answers."""
