"""`python -m tests.soak --minutes N [--seed N]`."""

import argparse
import sys
import time

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.load import LoadResult
from tests.soak.footprint import Footprint, Samples, after_warm_up, at_rest, grown_mb, slope_kb_per_minute, unequal
from tests.soak.storm import SLOTS, Storm

OPTIONS = "guard_window_seconds = 10\ndamping_seconds = 5"
"""The guard's window short, so that a round comes to its end; how much it lets go stays as it is."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print(f"soaking for {asked.minutes:g} minutes, seed {asked.seed}", flush=True)
    seconds = asked.minutes * 60
    with (
        Stage(SLOTS, server_options="check inter 500ms", backend_options=OPTIONS) as stage,
        Fleet(stage, "web", linger_seconds=20) as web,
        Fleet(stage, "api", linger_seconds=20) as api,
    ):
        fleets = {"web": web, "api": api}
        pid = stage.agent.pid
        for fleet in fleets.values():
            fleet.add()
        for name in fleets:
            stage.wait_equal(name)
        loads = [stage.load(path=path, clients=12, rate=80, seconds=seconds + 900) for path in ("/", "/api/")]
        for load in loads:
            load.start()
        storm = Storm(stage, fleets, loads, asked.seed)
        storm.begin()
        rests: list[Footprint] = []
        ends = time.monotonic() + seconds
        with Samples(pid) as samples:
            number = 0
            while time.monotonic() < ends:
                try:
                    storm.round(number)
                except Exception:
                    print(stage.agent.log_tail(60))
                    raise
                number += 1
                rests.append(at_rest(pid))
                lost = storm.failed() - storm.forced
                print(f"round {number}: {rests[-1]}, {lost} requests lost", flush=True)
        stage.agent.check()
        status = stage.status()
        results = [load.stop() for load in loads]
        reloads = status["agent"]["counters"]["reloads"]
    return tell(samples.all, rests, storm, results, reloads)


def tell(
    samples: list[Footprint], rests: list[Footprint], storm: Storm, results: list[LoadResult], reloads: int
) -> int:
    """Print what came of it; the exit code."""
    requests, failed = sum(one.requests for one in results), sum(one.failed for one in results)
    warm = after_warm_up(samples)
    grown, is_leak = grown_mb(warm)
    print(f"\n{'':14}{'start':>9}{'end':>9}{'least':>9}{'most':>9}")
    for what, numbers in (
        ("memory, MB", [one.memory_mb for one in warm]),
        ("threads", [float(one.threads) for one in warm]),
        ("descriptors", [float(one.descriptors) for one in warm]),
    ):
        digits = 1 if "MB" in what else 0
        row = (numbers[0], numbers[-1], min(numbers), max(numbers))
        print(f"{what:14}" + "".join(f"{one:9.{digits}f}" for one in row))
    print(f"memory after the warm-up: {slope_kb_per_minute(warm):+.1f} KB a minute; {grown:+.2f} MB by medians")
    print(f"requests {requests}, lost {failed}, of them by force {storm.forced}")
    print(f"hapsync's reloads {reloads}; " + ", ".join(f"{what} {count}" for what, count in storm.done.items()))
    wrong = unequal(rests)
    if is_leak:
        wrong.append(f"memory grew by {grown:.1f} MB")
    if failed > storm.forced:
        wrong += [
            f"{failed - storm.forced} requests lost that no fault forced",
            *(str(one.failures) for one in results),
        ]
    for line in wrong:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
