"""The agent's own socket: the requests of operators, and the replies."""
