"""The entry point of `python -m hapsync`."""

from hapsync.cli import main

main()
