"""Change-to-live: from the start of the call that registers an instance until HAProxy shows it ready.

hapsync is a real `hapsync agent`, the floor the `follower` beside it, which does the least there is to do. They take
turns of some changes each, judged by the same tight polling of HAProxy. A change is one instance registered with the
agent, and taken away again once it was seen; hapsync's are spread over several services and paced, so that its
budget on Consul (5 reads a second of one service, 50 in all) never makes one wait.
"""

import http.client
import json
import random
import sys
import time

from tests.bench import table
from tests.bench.bare import Prompt
from tests.bench.rig import Address, Rig, fill, filled, open_rig
from tests.harness.processes import Process
from tests.harness.tools import ROOT

TURNS, CHANGES_A_TURN = 24, 10
STANDING = 10
ROOMY_SLOTS = 240
_OURS = tuple(f"web{number}" for number in range(CHANGES_A_TURN))
_FLOOR = "bare"
_APART_SECONDS = 0.08, 0.12
"""Between two changes. Each costs two reads: 20 a second in all, and 2 of any one service."""
_POLL_SECONDS = 0.0002
_TIMEOUT_SECONDS = 10.0


def run(rng: random.Random) -> None:
    table.title("change-to-live: from a registration's start until HAProxy shows the server ready")
    _compare(rng, 2 * STANDING)


def run_roomy(rng: random.Random) -> None:
    table.title(f"change-to-live where each backend has {ROOMY_SLOTS} slots, most of them free")
    _compare(rng, ROOMY_SLOTS)


def _compare(rng: random.Random, slots: int) -> None:
    with open_rig(_OURS, slots, beside=(_FLOOR,)) as rig:
        fill(rig, STANDING)
        agent = rig.start_agent()
        follower = Process(
            (sys.executable, "-m", "tests.bench.follower", str(rig.consul.port), rig.socket, _FLOOR),
            rig.folder / "follower.log",
            folder=ROOT,
        )
        try:
            rig.wait_for(filled(rig, STANDING), agent)
            ours, floor = _measure(rig, rng)
            rig.wait_for(filled(rig, STANDING), agent)
            follower.check()
        finally:
            agent.stop()
            follower.stop()
    table.print_spreads(ours, floor, aim_median=1.5, aim_p99=3)


def _measure(rig: Rig, rng: random.Random) -> tuple[list[float], list[float]]:
    judge = _Judge(rig)
    ours: list[float] = []
    floor: list[float] = []
    number = 0
    for _ in range(TURNS):
        for backends, figures in ((_OURS, ours), ((_FLOOR,) * CHANGES_A_TURN, floor)):
            for backend in backends:
                number += 1
                next_at = time.monotonic() + rng.uniform(*_APART_SECONDS)
                figures.append(judge.time_change(backend, (f"10.200.{number // 250}.{number % 250 + 1}", 9000)))
                time.sleep(max(0.0, next_at - time.monotonic()))
    judge.close()
    return ours, floor


class _Judge:
    """Makes changes and watches HAProxy."""

    def __init__(self, rig: Rig) -> None:
        self._consul = http.client.HTTPConnection(rig.consul.host, rig.consul.port)
        self._haproxy = Prompt(rig.socket)

    def time_change(self, backend: str, address: Address) -> float:
        """Register an instance, return the seconds it took to be live, and take it away again."""
        host, port = address
        instance = f"{backend}-{host}"
        body = json.dumps({"Name": backend, "ID": instance, "Address": host, "Port": port})
        begin = time.monotonic()
        self._consul.request("PUT", "/v1/agent/service/register", body)
        # The change may be live before Consul says that it was taken.
        self._wait(backend, host, ready=True, pause_seconds=_POLL_SECONDS)
        seconds = time.monotonic() - begin
        self._consul_took_it()
        self._consul.request("PUT", f"/v1/agent/service/deregister/{instance}")
        self._wait(backend, host, ready=False, pause_seconds=0.002)
        self._consul_took_it()
        return seconds

    def close(self) -> None:
        self._consul.close()
        self._haproxy.close()

    def _consul_took_it(self) -> None:
        response = self._consul.getresponse()
        answer = response.read()
        assert response.status == http.client.OK, answer

    def _wait(self, backend: str, host: str, *, ready: bool, pause_seconds: float) -> None:
        question = f"show servers state {backend}\n".encode()
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while _is_ready(self._haproxy.ask(question), host.encode()) is not ready:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{backend}: {host} is not {'ready' if ready else 'gone'}")
            time.sleep(pause_seconds)


def _is_ready(state: bytes, host: bytes) -> bool:
    """Whether a `show servers state` shows the server at `host` running, and in neither maintenance nor drain."""
    found = state.find(b" " + host + b" ")
    if found < 0:
        return False
    operation, administration = state[found:].split(b" ", 4)[2:4]
    # 4 is "disabled in the file", which stays.
    return operation == b"2" and int(administration) & ~4 == 0
