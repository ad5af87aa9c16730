"""A load balancer that hapsync keeps in sync, under load and watched from outside while something goes wrong.

`scene` has it all running. `Believer` is the same load balancer under the same load, with the naive follower in
hapsync's place.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import frozen

from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import Stage
from tests.demo.truth import address, differences, placed, wanted
from tests.demo.watching import BETWEEN_WORKERS
from tests.faults.naive import Naive
from tests.harness.consul import Agent, Consul
from tests.harness.haproxy import HAProxy
from tests.harness.load import Load, LoadResult
from tests.harness.looks import Looks
from tests.harness.ports import free_port, free_ports
from tests.harness.processes import short_folder, wait_until

INSTANCES = 6
RATE = 150.0
QUICK_CHECKS = "check inter 500ms"
OFTEN = "resync_seconds = 1"
"""For [agent]: HAProxy is read whole every second, so that whatever may be taken away soon is."""
IMPATIENT = "wait_seconds = 2\ntimeout_seconds = 1"
"""For [consul]: silence is noticed after some three seconds."""

View = frozenset[tuple[str, str, str]]
"""HAProxy's servers: name, address and how each stands, those in maintenance too."""


def figure(text: str) -> None:
    """Print something measured, for docs/reliability.md; `pytest -s` shows it."""
    print(f"\nFIGURE {text}", flush=True)


class Eyes(Looks):
    """Looks at HAProxy's servers some thirty times a second."""

    every_seconds = 0.03

    def __init__(self, haproxy: HAProxy, backend: str = "web") -> None:
        super().__init__()
        self._haproxy = haproxy
        self._backend = backend
        self._lock = threading.Lock()
        self._seen: list[View] = []
        self._fewest = 0

    def __enter__(self) -> Self:
        self.forget()
        return super().__enter__()

    def forget(self) -> None:
        """Begin anew, with how the servers are now."""
        view = self.look()
        with self._lock:
            self._seen, self._fewest = [view], serving(view)

    def look(self) -> View:
        """The servers now."""
        servers = self._haproxy.servers(self._backend).values()
        return frozenset((one.name, address(one), str(placed(one))) for one in servers)

    @property
    def seen(self) -> list[View]:
        """The different views since `forget`, in the order they came."""
        with self._lock:
            return list(self._seen)

    @property
    def fewest(self) -> int:
        """The fewest that served at any moment since `forget`."""
        with self._lock:
            return self._fewest

    def note(self) -> None:
        with suppress(*BETWEEN_WORKERS):
            view = self.look()
            with self._lock:
                if view != self._seen[-1]:
                    self._seen.append(view)
                self._fewest = min(self._fewest, serving(view))


def serving(view: View) -> int:
    """How many addresses HAProxy sends new requests to."""
    return len({where for _, where, how in view if how.startswith("ready") and not how.endswith("weight 0")})


@frozen
class Scene:
    """Everything running; `eyes` look at HAProxy from the beginning on."""

    stage: Stage
    fleet: Fleet
    load: Load
    eyes: Eyes

    @property
    def log(self) -> str:
        """What the agent said."""
        return (self.stage.work / "agent.log").read_text(encoding="utf-8")

    def backend(self) -> dict[str, Any]:
        """What `hapsync status` says of the backend."""
        told: dict[str, Any] = self.stage.status()["backends"]["web"]
        return told

    def wait_for_doubt(self, doubt: str | None, seconds: float = 20) -> None:
        """Wait until `hapsync status` says why nothing is removed; None: until it can be again."""
        try:
            wait_until(lambda: self.backend()["doubt"] == doubt, seconds, "status", interval_seconds=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.backend()['doubt']} is not {doubt}") from error

    def deferred(self) -> set[str]:
        """Why `hapsync status` says that changes are held."""
        return {one["reason"] for one in self.stage.status()["deferred"]}

    def wait_for_held(self, *reasons: str, seconds: float = 15) -> None:
        """Wait until changes are held for exactly these reasons."""
        try:
            wait_until(lambda: self.deferred() == set(reasons), seconds, "what is held", interval_seconds=0.2)
        except TimeoutError as error:
            last = "\n".join(self.log.splitlines()[-20:])
            raise TimeoutError(f"{error}: {self.deferred()} is not {reasons}; the agent's log:\n{last}") from error

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """HAProxy's servers are the same from the beginning to the end, and at each moment."""
        self.eyes.forget()
        yield
        seen = self.eyes.seen
        assert len(seen) == 1, [sorted(one - other) for one, other in zip(seen[1:], seen, strict=False)]

    def put_stray(self) -> str:
        """Have HAProxy serve from an address that Consul does not know: something for hapsync to take away."""
        port = free_port()
        self.stage.origins.open(HOST, port)
        name = next(one.name for one in self.stage.haproxy.servers("web").values() if one.port == 1)
        self.stage.haproxy.ask(
            f"set server web/{name} addr {HOST} port {port};"
            f"set server web/{name} state ready;set server web/{name} weight 10"
        )
        wait_until(lambda: self.stage.haproxy.servers("web")[name].running, 20, "the stray")
        return name

    def wait_equal(self, seconds: float = 15) -> None:
        """Wait until HAProxy is what Consul says."""
        self.stage.wait_equal(timeout_seconds=seconds)

    def wait_proven(self, count: int, seconds: float = 15) -> None:
        """Wait until so many servers have passed their first check."""
        wait_until(lambda: self.backend()["capacity"] == count, seconds, "the first checks", interval_seconds=0.1)

    def follows(self, seconds: float = 20) -> Member:
        """Require that a new instance is let in and all else is as Consul says, too; the new one."""
        member = self.fleet.add()
        self.wait_equal(seconds)
        return member

    def end(self) -> LoadResult:
        """End the load and require that no request was lost."""
        result = self.load.stop()
        assert result.requests > 0
        assert result.failed == 0, result.failures
        return result


@contextmanager
def scene(
    slots: int = 12,
    instances: int = INSTANCES,
    *,
    consul: Agent | None = None,
    url: str = "",
    server_options: str = QUICK_CHECKS,
    backend_options: str = "",
    consul_options: str = "",
    rate: float = RATE,
) -> Iterator[Scene]:
    """Everything running and checked, nothing lost yet; `consul`, where given, runs already."""
    stage = Stage(
        {"web": slots},
        server_options=server_options,
        agent_options=OFTEN,
        backend_options=backend_options,
        consul_options=consul_options,
        consul_url=lambda stage: url or stage.consul.url,
        consul=Consul if consul is None else _as_it_runs(consul),
    )
    with stage, Fleet(stage) as fleet:
        for _ in range(instances):
            fleet.add()
        stage.wait_equal()
        with under_load(stage, fleet, instances, rate) as all_of_it:
            yield all_of_it


@contextmanager
def under_load(stage: Stage, fleet: Fleet, instances: int, rate: float = RATE) -> Iterator[Scene]:
    """Clients for a stage that has `instances` servers, once each has passed its first check."""
    with stage.load(rate=rate) as load, Eyes(stage.haproxy) as eyes:
        found = Scene(stage, fleet, load, eyes)
        found.wait_proven(instances)
        wait_until(lambda: load.snapshot().requests >= 50, 20, "the load to be under way")
        eyes.forget()
        yield found


def _as_it_runs(consul: Agent) -> Callable[[Path], AbstractContextManager[Agent]]:
    return lambda _work: nullcontext(consul)


class Believer:
    """The same HAProxy, configuration and all, before the same servers; clients of its own, and `Naive` beside it.

    It reads Consul where hapsync does unless it is given another `url`; `query` is what `Naive` adds to its reads.
    """

    def __init__(self, web: Scene, *, url: str = "", query: str = "") -> None:
        self._web, self._url, self._query = web, url, query

    def __enter__(self) -> Self:
        stage = self._web.stage
        with ExitStack() as stack:
            work = stack.enter_context(short_folder())
            frontend, statistics = free_ports(2)
            text = stage.haproxy.config.read_text(encoding="utf-8")
            for old, new in (
                (str(stage.haproxy.socket_path), str(work / "admin.sock")),
                (f"bind {HOST}:{stage.frontend_port}\n", f"bind {HOST}:{frontend}\n"),
                (re.escape(stage.statistics_url.split("//")[1].rstrip("/")), f"{HOST}:{statistics}"),
            ):
                text, count = re.subn(old, new, text)
                assert count == 1, old
            config = work / "haproxy.cfg"
            config.write_text(text, encoding="utf-8")
            self.haproxy = stack.enter_context(HAProxy(config, work))
            url = self._url or stage.consul.url
            stack.enter_context(Naive(work, url, self.haproxy.socket_path, "web", query=self._query))
            want = wanted(stage.consul.health("web"))
            wait_until(lambda: self._serves(set(want)), 20, "the follower")
            self.load = stack.enter_context(Load(work, frontend, rate=100.0, seconds=300.0))
            wait_until(lambda: self.load.snapshot().requests >= 20, 20, "the load to be under way")
            assert self.load.snapshot().failed == 0
            self._ending = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def _serves(self, addresses: Iterable[str]) -> bool:
        return {address(one) for one in self.haproxy.servers("web").values() if one.running} == set(addresses)

    def end(self) -> LoadResult:
        """End the load; it must have lost requests, or the fault was none."""
        result = self.load.stop()
        assert result.failed > 0
        return result

    def differences(self) -> list[str]:
        """How this HAProxy differs from what Consul says."""
        return differences(wanted(self._web.stage.consul.health("web")), self.haproxy.servers("web"))


def seconds_since(began: float) -> float:
    """How long ago `began` was, by the clock that nobody sets."""
    return time.monotonic() - began
