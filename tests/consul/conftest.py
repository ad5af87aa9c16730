"""Every test here runs with Consul 1.14.11, and only where this folder is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.asked import is_named
from tests.harness.tools import modern_consul_path


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Collect what is here only where it is asked for."""
    return None if is_named(config, Path(__file__).parent) else True


@pytest.fixture(scope="module", autouse=True)
def modern_consul() -> Iterator[str]:
    """The path of Consul 1.14.11, which `Consul`, `Cluster` and `acl_consul` start for the tests of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSUL", path := modern_consul_path())
        yield path
