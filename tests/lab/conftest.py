"""The lab has a target of its own, and its tests make network namespaces: `pytest tests` leaves them out."""

from pathlib import Path

import pytest

from tests.harness.asked import is_named


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Collect what is here only where it is asked for."""
    return None if is_named(config, Path(__file__).parent) else True
