"""What becomes of hapsync's watches at an agent whose limits they do not fit: `python -m tests.lab.scale.limits`."""

import argparse
import http.client
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping

from attrs import frozen

from hapsync.config.schema import ConsulConfig
from hapsync.consul.watch import Watches, WatchState
from tests.harness.consul import Consul
from tests.harness.processes import short_folder
from tests.lab.scale.catalog import registration, service_name
from tests.lab.scale.gauge import connected, cpu_seconds, telemetry

LIMITS: Mapping[str, Mapping[str, object]] = {
    "as Consul comes": {},
    "http_max_conns_per_client = 1000": {"http_max_conns_per_client": 1000},
}
OTHERS = 20
"""Requests of another program on the same machine, made at the end."""


@frozen
class Outcome:
    """After so many seconds: services that are followed, what is said of the others, and what both cost.

    `complete_after_seconds` is None where not all services were followed. `refused` of `OTHERS` requests of another
    program failed. `requests_per_second` reached Consul in the last half of the time; `agent_cores` and `own_cores`
    are of Consul and of hapsync's watches then.
    """

    limits: str
    services: int
    followed: int
    complete_after_seconds: float | None
    errors: Mapping[str, int]
    refused: int
    requests_per_second: float
    agent_cores: float
    own_cores: float


def outcome(name: str, limits: Mapping[str, object], services: int, seconds: float) -> Outcome:
    """Watch so many services of one instance each for so long, at an agent with these `limits`."""
    telemetry_on = {"prometheus_retention_time": "10m", "disable_hostname": True}
    with (
        short_folder() as work,
        Consul(work, config={"limits": dict(limits), "telemetry": telemetry_on}) as consul,
        connected(consul) as kept,
    ):
        for number in range(services):
            consul.request("PUT", "/v1/catalog/register", registration(number, 0))
        watches = Watches(ConsulConfig(address=consul.url, consistency="stale"), lambda _service: None)
        _requests(kept)  # connected now, for later it may be refused
        begun = time.monotonic()
        try:
            watches.follow(service_name(number) for number in range(services))
            complete = None
            half = begun + seconds / 2
            while time.monotonic() < half:
                if complete is None and all(map(is_followed, watches.states().values())):
                    complete = time.monotonic() - begun
                time.sleep(0.05)
            before = (time.monotonic(), _requests(kept), cpu_seconds(consul.process.pid), time.process_time())
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
            after = (time.monotonic(), _requests(kept), cpu_seconds(consul.process.pid), time.process_time())
            took, requests, agent, own = (end - begin for begin, end in zip(before, after, strict=True))
            states = watches.states().values()
            return Outcome(
                name,
                services,
                sum(map(is_followed, states)),
                complete,
                Counter(state.error.rpartition(": ")[2] for state in states if state.error),
                _refused(consul),
                requests / took,
                agent / took,
                own / took,
            )
        finally:
            watches.stop()


def is_followed(state: WatchState) -> bool:
    return state.reading is not None and state.error is None


def _requests(connection: http.client.HTTPConnection) -> float:
    return telemetry(connection).get("consul_rpc_query", 0.0)


def _refused(consul: Consul) -> int:
    refused = 0
    for _ in range(OTHERS):
        try:
            with connected(consul) as connection:
                telemetry(connection)
        except (OSError, http.client.HTTPException):
            refused += 1
    return refused


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.scale.limits", description=__doc__)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=80.0)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # hapsync says of each service why it is not followed
    for name, limits in LIMITS.items():
        print(outcome(name, limits, asked.services, asked.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
