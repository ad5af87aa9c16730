"""Suites that `pytest tests` leaves out, for they take minutes: they run when they are named."""

from pathlib import Path

import pytest


def is_named(config: pytest.Config, folder: Path) -> bool:
    """Return whether `folder`, or something in it, is among what pytest was told to run."""
    named = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return any(path.resolve().is_relative_to(folder) for path in named)
