"""A real Consul full of attacks, a real HAProxy: only the servers of the backend that is followed ever change."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.demo.watching import BETWEEN_WORKERS
from tests.harness.consul import ConsulError
from tests.harness.haproxy import HAProxy
from tests.harness.looks import Looks
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.harness.tools import haproxy_path
from tests.hostile.attack import HOSTS, Attacker

SEED = int(os.environ.get("HOSTILE_SEED", "20250"))
ROUNDS = 12
EACH_ROUND = 25
MOST_SLOTS = 400


def registration(attacker: Attacker, chance: random.Random, number: int) -> dict[str, Any]:
    """What an attacker who may register anything would send, where Consul's types allow it.

    Consul itself refuses ports and weights that are no whole numbers, and odd keys (not values) of metadata.
    """
    entry = attacker.entry()
    service, check = entry["Service"], entry["Checks"][0]
    instance = f"{service['ID']}-{number}"
    port = chance.choice((0, -1, 65536, 2**31, 10**15)) if chance.random() < 0.1 else 8000 + number % 1000
    node = f"{entry['Node']['Node']}-{number}"
    return {
        "Node": node,
        "Address": entry["Node"]["Address"] or "127.0.0.1",
        "NodeMeta": {"attack": attacker.text()[:500]},
        "Service": {
            **service,
            "Service": "web",
            "ID": instance,
            "Address": chance.choice(HOSTS) if chance.random() < 0.1 else service["Address"],
            "Port": port,
            "Meta": {"attack": attacker.text()[:500]},
            "Weights": {"Passing": chance.randrange(1, 65536), "Warning": chance.randrange(300)},
        },
        "Check": {**check, "Node": node, "ServiceID": instance, "Name": check["Notes"]},
    }


AIMED = (
    *("; set server canary/one weight 0", "\nset server canary/one weight 0", "; disable server canary/one"),
    *(" port 80; set server canary/one state maint;", " <<\nset server canary/one addr 127.0.0.1 port 9\n\n"),
)
"""What would change the canary if it stood at the end of a command."""


def aimed(number: int) -> dict[str, Any]:
    """An instance that would serve, were its address one; its address, id, node and tag all end in an attack."""
    end, node = AIMED[number % len(AIMED)], f"aimed-{number}{AIMED[number % len(AIMED)]}"
    service = {"Service": "web", "ID": f"web{end}", "Address": f"10.9.9.{number}{end}", "Port": 80, "Tags": [end]}
    return {"Node": node, "Address": f"10.9.8.{number}{end}", "Service": service}


class CanaryWatch(Looks):
    """Looks at the canary, and at every other server that is not hapsync's, again and again."""

    def __init__(self, haproxy: HAProxy, backend: str) -> None:
        super().__init__()
        self.looks = 0
        self.changes: list[Mapping[str, str]] = []
        self._haproxy = haproxy
        self._backend = backend
        self._before = self._look()

    def _look(self) -> Mapping[str, str]:
        (state,) = self._haproxy.servers(self._backend).values()
        fields = ("srv_name", "srv_addr", "srv_port", "srv_uweight", "srv_iweight", "srv_admin_state", "srv_op_state")
        return {name: state.fields[name] for name in fields}

    def note(self) -> None:
        with suppress(*BETWEEN_WORKERS):
            now = self._look()
            self.looks += 1
            if now != self._before:
                self.changes.append(now)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Everything running, and one more backend in HAProxy that hapsync.toml does not name, with one server."""
    with Stage({"web": 200}) as stage:
        template = stage.work / "haproxy.cfg.j2"
        canary = f"\nbackend canary\n    server one 127.0.0.1:{free_port()} weight 77\n"
        template.write_text(template.read_text() + canary)
        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: stage.haproxy.servers("canary"), 20, "the canary's backend")
        yield stage


def plain(text: str) -> bool:
    return text.isascii() and text.replace("\n", "").isprintable()


def test_hostile_registrations_change_nothing_but_the_servers_they_are(stage: Stage) -> None:
    print(f"HOSTILE_SEED={SEED}")
    attacker, chance = Attacker(SEED), random.Random(SEED)
    taken, refused, nodes = 0, 0, []
    with Fleet(stage) as fleet, CanaryWatch(stage.haproxy, "canary") as canary:
        good = [fleet.add(), fleet.add()]
        for number in range(2 * len(AIMED)):
            stage.consul.request("PUT", "/v1/catalog/register", aimed(number))
        for number in range(ROUNDS):
            for _ in range(EACH_ROUND):
                body = registration(attacker, chance, attacker.made)
                try:
                    stage.consul.request("PUT", "/v1/catalog/register", body)
                except (ConsulError, UnicodeError):
                    refused += 1
                else:
                    taken += 1
                    nodes.append(body["Node"])
            if number % 3 == 2:
                chance.shuffle(nodes)
                for node in nodes[: len(nodes) // 3]:
                    stage.consul.remove_node(node)
                del nodes[: len(nodes) // 3]
            time.sleep(0.3)
        print(f"{taken} registered, {refused} refused by Consul itself")
        assert canary.changes == []
        wait_until(lambda: stage.status()["agent"]["in_sync"], 20, "the agent to be in sync with all of it")
        served = {
            f"{one.address}:{one.port}" for one in stage.haproxy.servers("web").values() if not one.in_maintenance
        }
        status = stage.hapsync("status")
        in_json = stage.hapsync("status", "--json").stdout
        checked = subprocess.run(
            (haproxy_path(), "-c", "-f", str(stage.haproxy.config)), capture_output=True, text=True, check=False
        )

    assert taken > ROUNDS * EACH_ROUND / 2
    assert canary.looks > 100
    assert canary.changes == []
    assert {one.address for one in good} <= served
    assert checked.returncode == 0, checked.stderr
    assert plain(status.stdout)
    assert plain(in_json)
    assert json.loads(in_json)["counts"]["quarantined"] > 10
    assert plain((stage.work / "agent.log").read_text())
    assert "Traceback" not in (stage.work / "agent.log").read_text()
    assert plain(stage.haproxy.config.read_text())
    assert len(stage.haproxy.servers("web")) <= MOST_SLOTS


def test_the_watch_of_the_canary_sees_a_change(stage: Stage) -> None:
    with CanaryWatch(stage.haproxy, "canary") as canary:
        stage.haproxy.ask("set server canary/one weight 76")
        wait_until(lambda: canary.changes, 20, "the change to be seen")

    assert canary.changes[0]["srv_uweight"] == "76"
