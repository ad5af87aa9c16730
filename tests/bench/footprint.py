"""Memory and idle CPU of a `hapsync agent` that watches 100 services of 50 instances.

Memory is taken when all is in sync, and again after some churn and a rest; processor time over that rest, in which
every blocking query ends once and the agent reads all of HAProxy several times. The floor is a program that holds
the same 100 blocking queries, and the raw answer to each, and does nothing with them.
"""

import random
import sys
import time

from tests.bench import table
from tests.bench.rig import LARGE_BACKENDS, LARGE_INSTANCES, Rig, filled, open_large_rig
from tests.harness.processes import Process, wait_until
from tests.harness.procfs import TICKS_PER_SECOND, resident_mb, stat, status
from tests.harness.tools import ROOT

CHURN = 150
_CHURN_APART_SECONDS = 0.04
_REST_SECONDS = 64.0
"""Longer than Consul holds a blocking query of 60 s, which is a sixteenth more at most."""


def run(rng: random.Random) -> None:
    table.title(f"the agent with {LARGE_BACKENDS} watches of {LARGE_INSTANCES} instances: memory, and CPU at rest")
    with open_large_rig() as rig:
        agent = rig.start_agent()
        holder = Process(
            (sys.executable, "-m", "tests.bench.holder", str(rig.consul.port), *rig.backends),
            rig.folder / "holder.log",
            folder=ROOT,
        )
        try:
            rig.wait_for(filled(rig, LARGE_INSTANCES), agent)
            wait_until(lambda: _threads(holder) == LARGE_BACKENDS + 1, 20, "the floor's threads", process=holder)
            time.sleep(8)  # the file is written within five seconds
            table.print_against("memory when in sync", _rss_mb(agent), _rss_mb(holder), unit="MB", aim=60)
            _churn(rig, rng)
            rig.wait_for(filled(rig, LARGE_INSTANCES), agent)
            time.sleep(8)
            before = _cpu_seconds(agent), _cpu_seconds(holder)
            time.sleep(_REST_SECONDS)
            rig.require(filled(rig, LARGE_INSTANCES))
            ours, floor = (
                100 * (_cpu_seconds(one) - at) / _REST_SECONDS
                for one, at in zip((agent, holder), before, strict=True)
            )
            table.print_against(f"memory after {CHURN} changes", _rss_mb(agent), _rss_mb(holder), unit="MB", aim=60)
            table.print_against(f"CPU over {_REST_SECONDS:.0f} s at rest", ours, floor, unit="%", aim=1)
        finally:
            agent.stop()
            holder.stop()


def _churn(rig: Rig, rng: random.Random) -> None:
    """Add instances here and there, and take them away again."""
    added: list[str] = []
    for number in range(CHURN):
        backend = rng.choice(rig.backends)
        rig.consul.put(backend, f"more-{number}", node="more", address=f"10.201.0.{number + 1}", port=9000)
        added.append(f"more-{number}")
        time.sleep(_CHURN_APART_SECONDS)
    rng.shuffle(added)
    for instance in added:
        rig.consul.remove("more", instance)
        time.sleep(_CHURN_APART_SECONDS)


def _threads(process: Process) -> int:
    return int(status(process.pid)["Threads"])


def _rss_mb(process: Process) -> float:
    return resident_mb(process.pid)


def _cpu_seconds(process: Process) -> float:
    """Its user and system time."""
    return sum(map(int, stat(process.pid)[11:13])) / TICKS_PER_SECOND
