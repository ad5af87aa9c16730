"""The nouns: frozen values, and nothing else."""
