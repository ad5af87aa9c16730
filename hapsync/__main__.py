"""`python -m hapsync`."""

from hapsync.cli import main

main()
