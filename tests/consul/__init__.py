"""What is different with Consul 1.14.11: it streams, and says which answers its ACLs have filtered.

These tests are of 1.14.11 whichever Consul the others are tested with. `pytest tests` leaves them out, since
that Consul takes minutes to build: `make test-consul` does so, and runs them.
"""
