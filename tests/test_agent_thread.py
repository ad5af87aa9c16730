"""What the agent's thread decides between two looks at what is due."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hapsync.agent.acts import Acts
from hapsync.agent.schedule import Finding
from hapsync.agent.settings import Settings
from hapsync.config.schema import Config, Template, parse_config
from hapsync.model.changes import Defect
from hapsync.model.overrides import SavedState
from hapsync.model.server import HAProxyProcess

TOML = """
[consul]
address = "http://127.0.0.1:1"
[agent]
state_dir = "{folder}"
runtime_dir = "{folder}"
[haproxy]
config = "{folder}/haproxy.cfg"
template = "{folder}/template"
socket = "{folder}/socket"
[backends.web]
service = "web"
[backends.api]
service = "api"
"""
TEMPLATE = """global
{% for name in backends() %}
backend {{ name }}
{{ servers(name) }}
{% endfor %}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(parse_config(TOML.format(folder=tmp_path), "hapsync.toml"), Template("template", TEMPLATE))


@pytest.fixture
def acts(settings: Settings) -> Iterator[Acts]:
    made = Acts(settings, lambda: settings, SavedState(), lambda _what: None)
    yield made
    made._following.stop()


def observing(config: Config) -> Config:
    return attrs.evolve(config, agent=attrs.evolve(config.agent, mode="observe"))


def test_settings_that_stop_everything_are_not_reloaded_into_nor_written(acts: Acts, settings: Settings) -> None:
    acts._haproxy.answered(HAProxyProcess(1, "3.2.0", 9, is_stopping=False))
    acts._unread.clear()
    acts._reloads.compare(0.0)
    assert acts._grow_at() is not None

    acts._use(attrs.evolve(settings, config=observing(settings.config)), "hapsync.toml changed")
    assert acts._reloads.rollout.is_due
    assert acts._grow_at() is None

    acts._reloads.rollout = acts._reloads.rollout.compared(None)
    acts._write_file()
    assert acts._haproxy.process is not None, "HAProxy was asked what to write"
    assert acts._file.due_seconds is None


def test_a_backend_that_is_configured_no_more_keeps_nothing_out_of_sync(acts: Acts, settings: Settings) -> None:
    acts._reporter._note_defects([Defect("api", "nothing is broken")], ["api"])
    acts._withheld = {"web", "api"}

    left = {"web": settings.config.backends["web"]}
    acts._use(attrs.evolve(settings, config=attrs.evolve(settings.config, backends=left)))

    assert not acts._reporter.defective
    assert acts._withheld == {"web"}


def test_a_defect_in_writing_the_file_leaves_the_file_due(acts: Acts) -> None:
    acts._file.touch()
    acts._file.forget()  # as `write` begins with
    assert not acts._file.is_behind
    acts._found(Finding.DEFECT)
    assert acts._file.is_behind
