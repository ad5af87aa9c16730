"""What the promises cost: the same pass with and without their judgement, by turns, in one run; the aim is 3 %.

Somebody changes weights in HAProxy, of one server or of all, and a pass sets them back. A pass with nothing to do is
not judged at all.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hapsync.agent import carry_out
from hapsync.agent.once import apply_once
from hapsync.agent.reconcile import run_pass
from hapsync.agent.settings import read_settings
from hapsync.consul.read_once import read_catalog
from hapsync.model.changes import Defect
from hapsync.plan import assessment
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import desired
from hapsync.plan.judge import broken_by_commands, broken_by_plan
from tests.bench import table
from tests.bench.bare import Prompt
from tests.bench.rig import LARGE_BACKENDS, LARGE_INSTANCES, filled, open_large_rig

ROUNDS = {1: 60, LARGE_BACKENDS * LARGE_INSTANCES: 12}


def run(rng: random.Random) -> None:
    table.title(f"the promises: a pass over {LARGE_BACKENDS} backends of {LARGE_INSTANCES} servers, with and without")
    with open_large_rig() as rig:
        settings = read_settings(str(rig.config))
        catalog, _ = read_catalog(settings.config.consul, settings.config.services)
        apply_once(settings, catalog)
        rig.require(filled(rig, LARGE_INSTANCES))
        wanted = desired(catalog, settings.config)
        names = tuple(wanted.backends)
        servers = [f"{name}/srv{number}" for name in names for number in range(1, LARGE_INSTANCES + 1)]
        for count, rounds in ROUNDS.items():
            spent: list[float] = []
            taken: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(2 * rounds):
                lines = [f"set server {one} weight 9\n" for one in rng.sample(servers, count)]
                Prompt(rig.socket).pour("".join(lines).encode(), len(lines))
                is_judged = turn % 2 == 0
                with timed(spent) if is_judged else unjudged():
                    begin = time.monotonic()
                    outcome = run_pass(rig.socket, settings.config.haproxy.timeout_seconds, wanted, names, Rules())
                    taken[is_judged].append(time.monotonic() - begin)
                assert len(outcome.done) == count
            with_them, without = (statistics.median(taken[is_judged]) for is_judged in (True, False))
            table.note(
                f"{count} changes: {1000 * with_them:.2f} ms with, {1000 * without:.2f} ms without "
                f"(medians of {rounds}): {100 * (with_them / without - 1):+.1f} %; "
                f"spent in the judgement itself: {100 * sum(spent) / sum(taken[True]):.2f} % of a pass"
            )


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """The seconds that the judgement takes within the block are noted."""

    def noting(judge: Callable[..., tuple[Defect, ...]]) -> Callable[..., tuple[Defect, ...]]:
        def judged(*of: object) -> tuple[Defect, ...]:
            begin = time.monotonic()
            try:
                return judge(*of)
            finally:
                spent.append(time.monotonic() - begin)

        return judged

    with (
        patch.object(assessment, "broken_by_plan", noting(broken_by_plan)),
        patch.object(carry_out, "broken_by_commands", noting(broken_by_commands)),
    ):
        yield


@contextmanager
def unjudged() -> Iterator[None]:
    """No promise is looked at within the block."""
    with (
        patch.object(assessment, "broken_by_plan", lambda *_: ()),
        patch.object(carry_out, "broken_by_commands", lambda _: ()),
    ):
        yield
