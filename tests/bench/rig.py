"""A real Consul, a real HAProxy full of free slots, and hapsync's configuration for the two."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from tests.demo.stage import NO_GUARD
from tests.harness.consul import Consul
from tests.harness.haproxy import HAProxy
from tests.harness.ports import free_port
from tests.harness.processes import Process, short_folder, wait_until
from tests.harness.tools import ROOT, haproxy_path

LARGE_BACKENDS, LARGE_INSTANCES, LARGE_SLOTS = 100, 50, 60
_TXN_OPERATIONS = 64
_MAINTENANCE = 0x23

Address = tuple[str, int]


class WrongStateError(Exception):
    """HAProxy does not have what Consul says: what was measured is worth nothing."""


@frozen
class Rig:
    """What one benchmark runs on.

    Each backend follows the service of its own name: hapsync's `followed`, and those that are none of its business.
    """

    folder: Path
    consul: Consul
    haproxy: HAProxy
    backends: Sequence[str]
    config: Path
    empty_file: str

    @property
    def socket(self) -> str:
        return str(self.haproxy.socket_path)

    def restart_haproxy(self) -> None:
        """Have a HAProxy whose slots are all free again."""
        self.haproxy.stop()
        self.haproxy.config.write_text(self.empty_file, encoding="utf-8")
        self.haproxy.start()

    def start_agent(self) -> Process:
        command = (sys.executable, "-m", "hapsync", "agent", "--config", str(self.config))
        return Process(command, self.folder / "agent.log", folder=ROOT)

    def live(self) -> Mapping[str, frozenset[Address]]:
        """The addresses that HAProxy sends traffic to, by backend."""
        found: dict[str, set[Address]] = {name: set() for name in self.backends}
        for row in self.haproxy.ask("show servers state").splitlines()[2:]:
            if not row:
                continue
            fields = row.split(" ")
            if fields[1] in found and not int(fields[6]) & _MAINTENANCE:
                found[fields[1]].add((fields[4], int(fields[18])))
        return {name: frozenset(addresses) for name, addresses in found.items()}

    def require(self, wanted: Mapping[str, frozenset[Address]]) -> None:
        """Raise `WrongStateError` unless HAProxy's backends serve exactly these addresses."""
        live = self.live()
        wrong = [name for name in wanted if live[name] != wanted[name]]
        if wrong:
            name = wrong[0]
            raise WrongStateError(
                f"{len(wrong)} backends are wrong, the first {name}: "
                f"missing {sorted(wanted[name] - live[name])[:3]}, too many {sorted(live[name] - wanted[name])[:3]}"
            )

    def wait_for(
        self, wanted: Mapping[str, frozenset[Address]], agent: Process | None = None, timeout_seconds: float = 60
    ) -> None:
        """Wait until `require` is content."""

        def is_so() -> bool:
            self.require(wanted)
            return True

        wait_until(is_so, timeout_seconds, "HAProxy to follow", process=agent, interval_seconds=0.1)


@contextlib.contextmanager
def open_rig(followed: Sequence[str], slots: int, *, beside: Sequence[str] = ()) -> Iterator[Rig]:
    """Start everything but hapsync: backends of `slots` free slots each, and a Consul that knows no service.

    hapsync is to follow `followed`; the backends in `beside` are not its own.
    """
    with short_folder() as folder:
        haproxy = HAProxy(folder / "haproxy.cfg", folder)
        limits = {"limits": {"http_max_conns_per_client": 1000}}
        with Consul(folder, config=limits) as consul:
            _write_template(folder, followed, beside, slots)
            config = _write_settings(folder, consul, followed, slots)
            empty_file = _render(config)
            haproxy.config.write_text(empty_file, encoding="utf-8")
            with haproxy:
                yield Rig(folder, consul, haproxy, (*followed, *beside), config, empty_file)


@contextlib.contextmanager
def open_large_rig() -> Iterator[Rig]:
    """The size the aims are set for: 100 backends, each with 50 instances in Consul and room for 60."""
    with open_rig([f"b{number:03}" for number in range(LARGE_BACKENDS)], LARGE_SLOTS) as rig:
        fill(rig, LARGE_INSTANCES)
        yield rig


def fill(rig: Rig, instances: int) -> None:
    """Give each service so many instances, on as many nodes, each with a check and its node's."""
    operations: list[dict[str, object]] = []
    for place in range(instances):
        node = f"node-{place:03}"
        operations.append({"Node": {"Verb": "set", "Node": {"Node": node, "Address": f"10.255.0.{place + 1}"}}})
        # Not by the name of "serfHealth", or Consul takes a node away that has no agent, within a minute.
        operations.append(_check(node, "node-health", "Node Health Status", service_id=""))
        for number, backend in enumerate(rig.backends):
            instance_id = f"{backend}-{place:03}"
            host, port = _address(number, place)
            service = {
                "Service": backend,
                "ID": instance_id,
                "Address": host,
                "Port": port,
                "Tags": ["production", "v1.4.2"],
                "Meta": {"version": "1.4.2", "zone": f"z{place % 3}"},
            }
            operations.append({"Service": {"Verb": "set", "Node": node, "Service": service}})
            operations.append(_check(node, f"service:{instance_id}", "HTTP", service_id=instance_id))
    for start in range(0, len(operations), _TXN_OPERATIONS):
        rig.consul.request("PUT", "/v1/txn", operations[start : start + _TXN_OPERATIONS])


def filled(rig: Rig, instances: int) -> Mapping[str, frozenset[Address]]:
    """What HAProxy should serve after `fill`."""
    return {
        backend: frozenset(_address(number, place) for place in range(instances))
        for number, backend in enumerate(rig.backends)
    }


def _address(number: int, place: int) -> Address:
    return f"10.{number}.0.{place + 1}", 8000 + place


def _check(node: str, check_id: str, name: str, *, service_id: str) -> dict[str, object]:
    check = {
        "Node": node,
        "CheckID": check_id,
        "Name": name,
        "Status": "passing",
        "ServiceID": service_id,
        "Output": "HTTP GET http://127.0.0.1:8000/healthcheck: 200 OK Output: ok",
    }
    return {"Check": {"Verb": "set", "Check": check}}


def _write_template(folder: Path, followed: Sequence[str], beside: Sequence[str], slots: int) -> None:
    overridden = "".join(f"    server srv{number} 127.0.0.1:1 disabled\n" for number in range(1, slots + 1))
    sections = "\n".join(
        (
            *(f'backend {name}\n{{{{ servers("{name}") }}}}\n' for name in followed),
            *(f"backend {name}\n{overridden}" for name in beside),
        )
    )
    text = f"""\
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats timeout 10m
    maxconn 1000

defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s

frontend web
    bind 127.0.0.1:{free_port()}
    default_backend {followed[0]}

{sections}"""
    (folder / "haproxy.cfg.j2").write_text(text, encoding="utf-8")


def _write_settings(folder: Path, consul: Consul, followed: Sequence[str], slots: int) -> Path:
    tables = "".join(
        f'[backends.{name}]\nservice = "{name}"\nslots = {slots}\nserver_options = ""\n{NO_GUARD}\n'
        for name in followed
    )
    text = f"""\
[consul]
address = "{consul.url}"
[haproxy]
socket = "{folder}/admin.sock"
config = "{folder}/haproxy.cfg"
check_command = ["{haproxy_path()}", "-c", "-f", "{{config}}"]
template = "{folder}/haproxy.cfg.j2"
master_socket = "{folder}/master.sock"
[agent]
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
{tables}"""
    config = folder / "hapsync.toml"
    config.write_text(text, encoding="utf-8")
    return config


def _render(config: Path) -> str:
    command = (sys.executable, "-m", "hapsync", "render", "--config", str(config))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
