"""Every folder of tests/scenarios is a true sentence: what Consul and HAProxy say, and the plan that follows.

In a folder: `hapsync.toml` (its backends), `catalog.json` (service to Consul's answer), `servers_state.txt` and
`stat.csv` (HAProxy's answers), and what is expected of them, `plan.txt` and `commands.txt`. Where it is about safety
also `safety.json`, each part of which may be absent: `doubts` (service to the words of a doubt), `backwards`
(services), `cautions` (backend to what the guard remembers), `aside` (backend and address to maint, drain or null).
Where servers can be added live also `means.json`, backend to its means.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from hapsync.config.schema import BackendConfig, parse_config
from hapsync.consul.health import parse_reading
from hapsync.haproxy.commands import address_commands, state_commands
from hapsync.haproxy.show import (
    parse_servers_state,
    parse_stat,
    with_first_checks,
    with_loads,
    with_scaling,
)
from hapsync.model.catalog import Catalog, Doubt
from hapsync.model.server import Address, AdminState, Scaling
from hapsync.plan.desired import desired
from hapsync.plan.diff import diff
from hapsync.plan.guard import Caution, guard
from hapsync.plan.moves import Facts
from hapsync.plan.plan import Plan, make_plan

SCENARIOS = sorted(Path(__file__).with_name("scenarios").iterdir())


def read(scenario: Path, name: str) -> Any:
    path = scenario / name
    return json.loads(path.read_text()) if path.exists() else {}


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def caution(config: BackendConfig, known: Mapping[str, Any]) -> Caution:
    damped = frozenset(map(address, known.get("damped", ())))
    limits = {"max_loss_fraction": config.max_loss_fraction, "min_ready": config.min_ready}
    return Caution(**{**limits, **known, "damped": damped})


def facts_and_plan(scenario: Path) -> tuple[Facts, Plan]:
    config = parse_config((scenario / "hapsync.toml").read_text(), "hapsync.toml")
    guard_state = read(scenario, "guard_state.json")
    doubts = {service: Doubt(words) for service, words in guard_state.get("doubts", {}).items()}
    readings = {
        service: attrs.evolve(
            parse_reading(service, json.dumps(answer).encode()),
            doubt=doubts.get(service),
            is_backwards=service in guard_state.get("backwards", ()),
        )
        for service, answer in read(scenario, "catalog.json").items()
    }
    state = parse_servers_state((scenario / "servers_state.txt").read_text(), tuple(config.backends))
    stat = parse_stat([(scenario / "stat.csv").read_text()], config.backends)
    scaling = {name: Scaling(**one) for name, one in read(scenario, "scaling.json").items()}
    observed = with_scaling(with_first_checks(with_loads(state, stat.loads), stat.first_checks), scaling)
    overrides = {
        name: {address(text): AdminState(to) if to else None for text, to in asked.items()}
        for name, asked in guard_state.get("overrides", {}).items()
    }
    cautions = {
        name: caution(one, guard_state.get("cautions", {}).get(name, {})) for name, one in config.backends.items()
    }
    wanted = attrs.evolve(desired(Catalog(readings), config), overrides=overrides)
    plan = make_plan(guard(diff(wanted, observed), observed, wanted, cautions), observed)
    return Facts(wanted, observed, cautions), plan


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda folder: folder.name)
def test_the_plan_is_the_one_that_was_written_down(scenario: Path) -> None:
    _, plan = facts_and_plan(scenario)
    steps = (*address_commands(plan.incoming), *state_commands(plan.incoming), *state_commands(plan.outgoing))
    commands = "".join(f"{command.line}\n" for _, command in steps)

    assert (scenario / "plan.txt").read_text() == (f"{plan}\n" if str(plan) else "")
    assert (scenario / "commands.txt").read_text() == commands


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 35
