"""When the agent looks at old workers, and what it says; the looks themselves are stood in for."""

import logging
import time
from collections.abc import Callable, Mapping

import pytest

from hapsync.agent import old_workers
from hapsync.agent.executor import Executor
from hapsync.agent.old_workers import OldWorkersWatch
from hapsync.config.schema import BackendConfig, Config
from hapsync.haproxy.old_workers import MANY, OldWorker, OldWorkers
from hapsync.model.server import Backend, HAProxyProcess, Observed
from hapsync.plan.desired import Desired

CONFIG = Config(backends={"web": BackendConfig(service="web")})
READING = Observed({"web": Backend("web")})
MANY_WORKERS = tuple(OldWorker(pid, 60, 90, 1) for pid in range(1, MANY + 2))


def process(pid: int) -> HAProxyProcess:
    return HAProxyProcess(pid, "2.6.12", 10, is_stopping=False)


class Looks:
    """Stands in for looks at the master: answers with `workers`, remembers which live worker each was about."""

    def __init__(self) -> None:
        self.workers: tuple[OldWorker, ...] = ()
        self.pids: list[int] = []
        self.went_on: list[bool] = []
        self.delay_seconds = 0.0

    def __call__(
        self, _master: str, pid: int, _wanted: Desired, _live: Mapping[str, Backend], may_go_on: Callable[[], bool]
    ) -> OldWorkers:
        self.pids.append(pid)
        until = time.monotonic() + self.delay_seconds
        while time.monotonic() < until and may_go_on():
            time.sleep(0.01)
        self.went_on.append(may_go_on())
        return OldWorkers(1.0, self.workers)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    monkeypatch.setattr(old_workers, "read_old_workers", looks)
    monkeypatch.setattr(old_workers, "LOOK_SECONDS", 0.0)
    return looks


def steps(watch: OldWorkersWatch, count: int = 6) -> list[bool]:
    """Step `count` times, each look having ended before the next."""
    news = []
    for _ in range(count):
        news.append(watch.step(CONFIG, Desired({})))
        watch.pause()
    return news


def test_without_old_workers_one_look_follows_each_worker_that_answers_anew(looks: Looks) -> None:
    watch = OldWorkersWatch(Executor(), lambda: True)
    news = steps(watch, 2)
    for pid in (7, 7, 8):
        watch.note(process(pid), READING)
        news += steps(watch)

    assert looks.pids == [7, 8]
    assert not any(news)


def test_a_look_at_one_worker_says_nothing_of_the_next(looks: Looks) -> None:
    watch = OldWorkersWatch(Executor(), lambda: True)
    watch.note(process(7), READING)
    watch.step(CONFIG, Desired({}))
    watch.note(process(8), READING)
    watch.pause()
    steps(watch)

    assert looks.pids == [7, 8]


def test_old_workers_are_looked_at_again_and_again_and_told_once(
    looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    looks.workers = MANY_WORKERS
    watch = OldWorkersWatch(Executor(), lambda: True)
    watch.note(process(7), READING)
    with caplog.at_level(logging.WARNING):
        news = steps(watch)
        looks.workers = ()
        steps(watch)

    assert news[1:] == [True] * 5
    assert len(looks.pids) > 5
    assert [record.message.split(";")[0] for record in caplog.records] == [
        f"more than {MANY} old workers of HAProxy run on"
    ]
    assert watch.seen.workers == ()


def test_a_look_ends_soon_when_it_has_to_stand_aside(looks: Looks) -> None:
    looks.delay_seconds = 30.0
    watch = OldWorkersWatch(Executor(), lambda: True)
    watch.note(process(7), READING)
    watch.step(CONFIG, Desired({}))
    watch.pause()

    assert looks.went_on == [False]
