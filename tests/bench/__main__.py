"""Runs the benchmarks named on the command line, or all of them; see the package."""

import argparse
import random
import time
from collections.abc import Callable

from tests.bench import change_to_live, cold, footprint, nothing_to_do, promises

BENCHMARKS: dict[str, Callable[[random.Random], None]] = {
    "a": change_to_live.run,
    "b": cold.run,
    "c": nothing_to_do.run,
    "d": footprint.run,
    "e": change_to_live.run_roomy,
    "f": promises.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure hapsync against its floor.")
    parser.add_argument("benchmark", nargs="*", metavar="a|b|c|d|e|f", help="default: all")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices; default: a new one")
    arguments = parser.parse_args()
    if unknown := set(arguments.benchmark) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 16)
    begin = time.monotonic()
    print(f"seed {seed}")
    for name in arguments.benchmark or BENCHMARKS:
        print(f"\n({name}) ", end="", flush=True)
        BENCHMARKS[name](random.Random(f"{seed}-{name}"))
    print(f"\ntook {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
