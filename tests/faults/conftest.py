"""The fault suite takes minutes: it runs when it is named, and its quick part with all other tests.

`pytest tests` leaves out what is below this folder, unless it is marked `quick`; `pytest tests/faults`, a file or a
test of it, or `pytest -m faults` runs it.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.is_relative_to(HERE)]
    for item in own:
        item.add_marker("faults")
    if is_asked_for(config):
        return
    left_out = [item for item in own if item.get_closest_marker("quick") is None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def is_asked_for(config: pytest.Config) -> bool:
    named = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return "faults" in config.option.markexpr or any(path.resolve().is_relative_to(HERE) for path in named)
