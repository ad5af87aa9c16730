"""A pass with nothing to do: what it costs to see that HAProxy is as it should be.

The floor are the two dumps a pass may need, bare and read to their end: every server's state, and every server's
counters. hapsync asks for the counters only where slots are short, which here none are.
"""

import random
import time

from hapsync.agent.once import apply_once
from hapsync.agent.reconcile import run_pass
from hapsync.agent.settings import read_settings
from hapsync.consul.read_once import read_catalog
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import desired
from tests.bench import table
from tests.bench.bare import dump
from tests.bench.rig import LARGE_BACKENDS, LARGE_INSTANCES, filled, open_large_rig

ROUNDS = 100


def run(rng: random.Random) -> None:
    del rng
    table.title(f"a pass with nothing to do: {LARGE_BACKENDS} backends of {LARGE_INSTANCES} servers, all in sync")
    ours: list[float] = []
    floor: list[float] = []
    with open_large_rig() as rig:
        settings = read_settings(str(rig.config))
        catalog, _ = read_catalog(settings.config.consul, settings.config.services)
        apply_once(settings, catalog)
        rig.require(filled(rig, LARGE_INSTANCES))
        wanted = desired(catalog, settings.config)
        names = tuple(wanted.backends)
        for _ in range(ROUNDS):
            begin = time.monotonic()
            outcome = run_pass(rig.socket, settings.config.haproxy.timeout_seconds, wanted, names, Rules())
            ours.append(time.monotonic() - begin)
            assert outcome.first.plan.is_empty
            begin = time.monotonic()
            dump(rig.socket, b"show servers state\n")
            dump(rig.socket, b"show stat\n")
            floor.append(time.monotonic() - begin)
    table.print_spreads(ours, floor, aim_median=3, aim_p99=None)
