"""These tests take minutes, and are worth most with each HAProxy: `pytest tests` leaves them out."""

from pathlib import Path

import pytest

from tests.harness.asked import is_named


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Collect what is here only where it is asked for."""
    return None if is_named(config, Path(__file__).parent) else True
