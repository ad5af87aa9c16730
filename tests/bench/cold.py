"""Cold convergence: everything in Consul, nothing in HAProxy, one pass.

hapsync's figure is its one pass as `hapsync apply` makes it, in a fresh process: reading the catalog, reading
HAProxy, the changes with every address read back, reading again until nothing differs, and the file, rendered,
checked by `haproxy -c` and swapped in. The floor reads the same services over one kept connection and sends the same
commands, all in one stream; it reads nothing back and writes nothing.
"""

import json
import random
import statistics
import subprocess
import sys
import time

from tests.bench import table
from tests.bench.rig import LARGE_BACKENDS, LARGE_INSTANCES, Rig, filled, open_large_rig
from tests.harness.tools import ROOT, haproxy_path

ROUNDS = 5


def run(rng: random.Random) -> None:
    del rng
    table.title(f"cold convergence: {LARGE_BACKENDS} backends of {LARGE_INSTANCES} servers from nothing, in one pass")
    with open_large_rig() as rig:
        floor_command = ("tests.bench.bare_pass", str(rig.consul.port), rig.socket, *rig.backends)
        ours: list[dict[str, float]] = []
        floor: list[dict[str, float]] = []
        command: list[float] = []
        check: list[float] = []
        for _ in range(ROUNDS):
            ours.append(_once(rig, ("tests.bench.one_pass", str(rig.config))))
            check.append(_time((haproxy_path(), "-c", "-f", str(rig.haproxy.config))))
            floor.append(_once(rig, floor_command))
            rig.restart_haproxy()
            command.append(_time((sys.executable, "-m", "hapsync", "apply", "--config", str(rig.config))))
            rig.require(filled(rig, LARGE_INSTANCES))
    totals = [[sum(one.values()) for one in figures] for figures in (ours, floor)]
    table.print_spreads(*totals, aim_median=2, aim_p99=None)
    for name, figures in (("hapsync", ours), ("floor", floor)):
        parts = (f"{part} {1000 * statistics.median(one[part] for one in figures):.0f} ms" for part in figures[0])
        table.note(f"{name}: {', '.join(parts)}")
    table.note(f"of hapsync's, `haproxy -c` of the file alone: {1000 * statistics.median(check):.0f} ms")
    table.note(f"the whole command `hapsync apply`, from its start: {1000 * statistics.median(command):.0f} ms")


def _once(rig: Rig, module: tuple[str, ...]) -> dict[str, float]:
    """Run a module on a HAProxy with nothing in it; it says how long its parts took."""
    rig.restart_haproxy()
    ended = subprocess.run((sys.executable, "-m", *module), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    rig.require(filled(rig, LARGE_INSTANCES))
    seconds: dict[str, float] = json.loads(ended.stdout)
    return seconds


def _time(command: tuple[str, ...]) -> float:
    begin = time.monotonic()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin
