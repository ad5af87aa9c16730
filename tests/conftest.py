"""Fixtures that many tests share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.harness.consul import Consul
from tests.harness.processes import short_folder

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long one example takes is the machine's matter: with two busy cores a law must not fail for it.
settings.register_profile("patient", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("patient")


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
