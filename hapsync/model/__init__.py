"""The value classes of all rooms: frozen values, and nothing else."""
