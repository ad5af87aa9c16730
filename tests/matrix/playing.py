"""What every story is played on: a stage with instances that serve, and a load; and what must be so at its end."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from attrs import frozen

from tests.demo.fleet import Fleet, Member
from tests.demo.stage import Stage
from tests.demo.truth import address
from tests.harness.load import LoadResult
from tests.harness.processes import wait_until

SETTLED_SECONDS = 20.0
LINGER_SECONDS = 2.0
"""The load goes on until the servers that left have ended, 1.5 s after they did."""
FIRST_TO_ADD_SERVERS = (3, 0)


class StoryError(AssertionError):
    """What should be true at the end of a story is not."""


@frozen
class Told:
    """How a story went: requests of the load, those that failed, reloads, in words what was seen, and on what."""

    requests: int
    failed: int
    reloads: int
    note: str
    haproxy: str


class Story:
    """A stage with a load on it; `end` ends the load and says how it went."""

    def __init__(self, stage: Stage, fleet: Fleet, version: str, haproxy: str) -> None:
        self.stage = stage
        self.fleet = fleet
        self.adds_live = adds_live(version)
        self._haproxy = haproxy
        self._worker = stage.haproxy.worker_pid()
        self._reloads = stage.reloads()
        self._load = stage.load(clients=12, closing=4, rate=200)
        self._load.start()
        time.sleep(0.5)

    def settle(self, backend: str = "web") -> None:
        self.stage.wait_equal(backend, timeout_seconds=SETTLED_SECONDS)

    def wait_reloads(self, count: int) -> None:
        wait_until(lambda: self.reloads == count, SETTLED_SECONDS, f"reload {count}")

    def wait_requests(self, count: int) -> None:
        """Wait until the load has made so many more requests."""
        enough = self._load.snapshot().requests + count
        wait_until(lambda: self._load.snapshot().requests >= enough, SETTLED_SECONDS, f"{count} more requests")

    @property
    def reloads(self) -> int:
        """How many there were since the story began."""
        return self.stage.reloads() - self._reloads

    @property
    def dynamic(self) -> int:
        """How many servers were added live."""
        return sum(name.startswith("dyn-") for name in self.stage.haproxy.servers("web"))

    def server_of(self, member: Member) -> str:
        """The name of the server that has a member's address."""
        [name] = [name for name, one in self.stage.haproxy.servers("web").items() if address(one) == member.address]
        return name

    def end(self, reloads: int | None, note: str = "", *, same_worker: bool | None = None) -> Told:
        """Check that the load lost nothing and that there were so many `reloads` (None: any number)."""
        time.sleep(LINGER_SECONDS)
        result: LoadResult = self._load.stop()
        made = self.reloads
        must(not result.failed, f"lost {result.failed} of {result.requests}: {result.failures[:3]}")
        must(result.requests > 0, "the load made no request")
        must(reloads is None or made == reloads, f"{made} reloads, not {reloads}")
        if same_worker or (same_worker is None and reloads == 0):
            must(self.stage.haproxy.worker_pid() == self._worker, "another worker answers")
        return Told(result.requests, result.failed, made, note, self._haproxy)


def must(holds: bool, what: str) -> None:  # noqa: FBT001
    """Raise `StoryError` unless it `holds`."""
    if not holds:
        raise StoryError(what)


def adds_live(version: str) -> bool:
    """Whether an HAProxy of this version is to be given servers live where no slot is free."""
    major, minor = version.split(".")
    return (int(major), int(minor)) >= FIRST_TO_ADD_SERVERS


@contextmanager
def story(
    version: str,
    slots: int = 8,
    instances: int = 3,
    options: str = "",
    server_options: str = "check inter 500ms",
    template: str = "",
    others: Mapping[str, int] | None = None,
    prepare: Callable[[Stage], None] | None = None,
    serves: Callable[[Stage, Fleet], bool] | None = None,
) -> Iterator[Story]:
    """Everything running, `instances` serving; `template`: lines for the backend, in place of its `balance`.

    `others` are further backends with their slots; `prepare` changes the settings further. `serves` says when the
    instances do, where HAProxy's weights are not Consul's.

    Raises `StoryError` where another HAProxy than `version` runs.
    """
    backends = {"web": slots, **(others or {})}
    with Stage(backends, backend_options=options, server_options=server_options, agent=False) as stage:
        haproxy = stage.haproxy.info()["Version"]
        must(haproxy.startswith(f"{version}."), f"HAProxy {haproxy} runs, not {version}")
        if template:
            path = stage.work / "haproxy.cfg.j2"
            path.write_text(path.read_text().replace("    balance roundrobin\n", template))
        if prepare is not None:
            prepare(stage)
        if template or prepare is not None:
            stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout)
            stage.haproxy.reload()
        before = stage.reloads()
        with Fleet(stage) as fleet:
            for _ in range(instances):
                fleet.add()
            stage.start_agent()
            if serves is None:
                stage.wait_equal(timeout_seconds=SETTLED_SECONDS)
            else:
                wait_until(lambda: serves(stage, fleet), SETTLED_SECONDS, "the instances to serve")
            must(stage.reloads() == before, "a reload before the story began")
            yield Story(stage, fleet, version, haproxy)
