"""The client of Consul: its requests, their rate, and the evidence in Consul's answers."""
