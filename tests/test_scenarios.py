"""Every folder of tests/scenarios is a true sentence: what Consul and HAProxy say, and the plan that follows.

In a folder: `hapsync.toml` (its backends), `catalog.json` (service to Consul's answer), `servers_state.txt` and
`stat.csv` (HAProxy's answers), and what is expected of them, `plan.txt` and `commands.txt`.
"""

import json
from pathlib import Path

import pytest

from hapsync.catalog import Catalog, parse_reading
from hapsync.config import parse_config
from hapsync.desired import desired
from hapsync.diff import diff
from hapsync.observed import parse_loads, parse_servers_state, with_loads
from hapsync.plan import Plan, make_plan
from hapsync.runtime import address_commands, state_commands

SCENARIOS = sorted(Path(__file__).with_name("scenarios").iterdir())


def planned(scenario: Path) -> Plan:
    config = parse_config((scenario / "hapsync.toml").read_text(), "hapsync.toml")
    answers = json.loads((scenario / "catalog.json").read_text())
    readings = {service: parse_reading(service, json.dumps(answer).encode()) for service, answer in answers.items()}
    state = parse_servers_state((scenario / "servers_state.txt").read_text(), tuple(config.backends))
    observed = with_loads(state, parse_loads((scenario / "stat.csv").read_text()))
    return make_plan(diff(desired(Catalog(readings), config), observed), observed)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda folder: folder.name)
def test_the_plan_is_the_one_that_was_written_down(scenario: Path) -> None:
    plan = planned(scenario)
    steps = (*address_commands(plan.incoming), *state_commands(plan.incoming), *state_commands(plan.outgoing))
    commands = "".join(f"{command.line}\n" for _, command in steps)

    assert (scenario / "plan.txt").read_text() == (f"{plan}\n" if str(plan) else "")
    assert (scenario / "commands.txt").read_text() == commands


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 15
