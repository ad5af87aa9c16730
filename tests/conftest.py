"""Fixtures that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.consul import Consul
from tests.harness.processes import short_folder


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def shared_consul() -> Iterator[Consul]:
    """One Consul for a whole module; tests in it use services of their own."""
    with short_folder() as folder, Consul(folder) as consul:
        yield consul
