"""Consul: what is asked of it, how often, and what its answers prove."""
