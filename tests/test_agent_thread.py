"""What the agent's thread decides between two looks at what is due."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hapsync.agent.agent import Agent
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.report_file import REPORT_FILE, report_from_json
from hapsync.agent.schedule import FileDue, Finding
from hapsync.agent.settings import Settings
from hapsync.config.schema import Config, Template, parse_config
from hapsync.errors import CatalogError
from hapsync.model.catalog import Catalog, Instance, Reading
from hapsync.model.changes import Defect
from hapsync.model.overrides import SavedState
from hapsync.model.server import Address, CheckStatus, HAProxyProcess

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
def agent(settings: Settings) -> Iterator[Agent]:
    made = Agent(settings, lambda: settings, SavedState())
    yield made
    made._following.stop()


def observing(config: Config) -> Config:
    return attrs.evolve(config, agent=attrs.evolve(config.agent, mode="observe"))


def test_settings_that_stop_everything_are_not_reloaded_into_nor_written(agent: Agent, settings: Settings) -> None:
    agent._passes.haproxy.answered(HAProxyProcess(1, "3.2.0", 9, is_stopping=False))
    agent._passes.coverage.unread.clear()
    agent._reloads.compare()
    assert agent._grow_at() is not None

    agent._use(attrs.evolve(settings, config=observing(settings.config)), "hapsync.toml changed")
    assert agent._reloads.rollout.is_due
    assert agent._grow_at() is None

    agent._reloads.rollout = agent._reloads.rollout.compared(None)
    agent._write_file()
    assert agent._passes.haproxy.process is not None, "HAProxy was asked what to write"
    assert agent._file.due_seconds is None


def test_a_backend_that_is_configured_no_more_keeps_nothing_out_of_sync(agent: Agent, settings: Settings) -> None:
    agent._reporter._note_defects([Defect("api", "nothing is broken")], ["api"])
    agent._passes.coverage.withheld = {"web", "api"}

    left = {"web": settings.config.backends["web"]}
    agent._use(attrs.evolve(settings, config=attrs.evolve(settings.config, backends=left)))

    assert not agent._reporter.report.defects
    assert agent._passes.coverage.withheld == {"web"}


def test_the_settings_before_hold_also_where_consuls_certificates_became_unfit(
    agent: Agent, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(_config: Config) -> None:
        raise CatalogError("consul.ca_file cannot be read")

    def given_up(*_: object) -> None:
        agent._reloads.rollout = attrs.evolve(agent._reloads.rollout, settings=settings)

    left = {"web": settings.config.backends["web"]}
    agent._use(attrs.evolve(settings, config=attrs.evolve(settings.config, backends=left)), "hapsync.toml changed")
    monkeypatch.setattr(agent._following, "use", unfit)
    monkeypatch.setattr(agent._reloads, "step", given_up)
    agent._grow()

    assert set(agent._guard_state.cautions()) == {"web", "api"}


def test_a_defect_in_writing_the_file_leaves_the_file_due(agent: Agent) -> None:
    agent._file.make_due(FileDue.SOON)
    agent._file.forget()  # as `write` begins with
    assert not agent._file.is_behind
    agent._found(Finding.DEFECT)
    assert agent._file.is_behind


def test_a_stop_writes_the_last_report(agent: Agent, tmp_path: Path) -> None:
    agent.inbox.stop()
    agent.run()
    report = report_from_json((tmp_path / REPORT_FILE).read_text())
    assert report is not None
    assert report.haproxy is None


def test_only_a_write_of_the_file_makes_the_guard_watch_its_servers(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text("backend web\n    server srv1 10.0.0.1:80 weight 10\nbackend api\n")
    instance = Instance("n", "web-1", Address("10.0.0.1", 80), CheckStatus.PASSING)
    catalog = Catalog({"web": Reading("web", (instance,)), "api": Reading("api", ())})
    guard_state = GuardState(settings.config, SavedState())
    reconciler = Reconciler(lambda: settings, guard_state, lambda: catalog)

    seen = reconciler.target(is_down=True)
    assert [slot.address for slot in seen.observed.backends["web"].slots] == [instance.address]
    assert not guard_state.saved.peaks, "a command that changes nothing asks for it, too"
    reconciler.target_to_write(is_down=True)
    assert "web" in guard_state.saved.peaks
