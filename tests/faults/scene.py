"""Everything running under load, for a fault to come, and what must be true once it is over."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import frozen

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.demo.watching import BETWEEN_WORKERS
from tests.harness.chaos import SocketChaos
from tests.harness.haproxy import HAProxy
from tests.harness.load import Load, LoadResult
from tests.harness.looks import Looks
from tests.harness.processes import wait_until

CHECKS = "check inter 500ms"
RATE = 150.0


def say_figure(what: str) -> None:
    """Print one measured line, which `grep ^FIGURE` finds."""
    print(f"FIGURE {what}")


def settle(config: Path, **values: object) -> None:
    """Set keys of [haproxy] in the settings at `config`; None takes one away."""
    text = config.read_text(encoding="utf-8")
    for key, value in values.items():
        text = re.sub(rf"(?m)^{key} = .*\n", "", text)
        if value is not None:
            text = text.replace("[haproxy]\n", f"[haproxy]\n{key} = {json.dumps(value)}\n", 1)
    config.write_text(text, encoding="utf-8")


@frozen
class Scene:
    """A stage with its fleet behind a load; `chaos` stands before HAProxy's socket only where that was asked for."""

    stage: Stage
    fleet: Fleet
    load: Load
    chaos: SocketChaos

    # What hapsync says

    def reasons(self) -> str:
        """Why `status` says that it is not in sync; empty when it does not."""
        return "\n".join(self.stage.status()["sync"]["reasons"])

    def wait_said(self, words: str, timeout_seconds: float = 20.0) -> None:
        """Wait until `status` gives a reason with these words."""
        wait_until(lambda: words in self.reasons(), timeout_seconds, f"status to say {words!r}", interval_seconds=0.1)

    def counters(self) -> Mapping[str, int]:
        """The agent's counters by the report, up to a second old."""
        report = self.stage.work / "run" / "status.json"
        counters: Mapping[str, int] = json.loads(report.read_text(encoding="utf-8"))["counters"]
        return counters

    def wait_counted(self, name: str, least: int) -> None:
        wait_until(lambda: self.counters()[name] >= least, 30, f"{least} {name} in {self.counters()}")

    def log(self) -> str:
        return (self.stage.work / "agent.log").read_text(encoding="utf-8")

    def wait_logged(self, words: str, timeout_seconds: float = 20.0) -> None:
        wait_until(lambda: words in self.log(), timeout_seconds, f"the log to say {words!r}")

    def wait_in_step(self, timeout_seconds: float = 15.0) -> None:
        """Wait until HAProxy is what Consul says, and `status` says so."""
        self.stage.wait_equal(timeout_seconds=timeout_seconds)
        wait_until(
            lambda: self.stage.hapsync("status").returncode == 0,
            timeout_seconds,
            "status to say in sync",
            interval_seconds=0.1,
        )

    # HAProxy

    def serving(self) -> set[int]:
        """The ports of the servers that HAProxy may send to."""
        return {
            one.port
            for one in self.stage.haproxy.servers("web").values()
            if one.running and not one.in_maintenance and not one.draining and one.weight > 0
        }

    def wait_weight(self, weight: int) -> None:
        """Wait until some server has this weight."""
        wait_until(
            lambda: weight in {one.weight for one in self.stage.haproxy.servers("web").values()}, 20, "a weight"
        )

    def slot(self, port: int) -> str:
        """The name of the slot that serves this port, or else of one that has it."""
        slots = [one for one in self.stage.haproxy.servers("web").values() if one.port == port]
        return min(slots, key=lambda one: one.in_maintenance).name

    # What came of it

    def lost(self) -> LoadResult:
        """What the clients saw so far."""
        return self.load.snapshot()

    def ends(self, *, forced: LoadResult | None = None, timeout_seconds: float = 15.0) -> LoadResult:
        """Require that all is in sync again and nothing was lost, or nothing after `forced`; end the load."""
        self.wait_in_step(timeout_seconds)
        result = self.load.stop()
        expected = forced.failed if forced is not None else 0
        assert result.failed == expected, f"{expected} were forced: {result.by_reason} {result.failures}"
        assert result.requests > 50
        assert "Traceback" not in self.log(), self.log()
        assert self.stage.agent.running
        return result


@contextmanager
def scene(
    slots: int = 8,
    instances: int = 4,
    *,
    agent_options: str = "resync_seconds = 2",
    backend_options: str = "",
    server_options: str = CHECKS,
    through_chaos: bool = False,
    start: Callable[[Stage], object] = Stage.start_agent,
    prepare: Callable[[Stage], object] = lambda _stage: None,
    **haproxy_options: object,
) -> Iterator[Scene]:
    """`instances` behind a load, all in sync, nothing lost.

    `haproxy_options` are keys of [haproxy]; `prepare` is called before the agent starts, which is by `start`.
    `through_chaos`: hapsync reaches HAProxy's socket through `chaos`.
    """
    with ExitStack() as stack:
        stage = stack.enter_context(
            Stage(
                {"web": slots},
                server_options=server_options,
                agent=False,
                agent_options=agent_options,
                backend_options=backend_options,
            )
        )
        fleet = stack.enter_context(Fleet(stage))
        chaos = stack.enter_context(SocketChaos(stage.work, stage.work / "chaos.sock", stage.haproxy.socket_path))
        if through_chaos:
            haproxy_options["socket"] = str(chaos.path)
        settle(stage.config_path, **{"timeout_seconds": 2, **haproxy_options})
        prepare(stage)
        start(stage)
        for _ in range(instances):
            fleet.add()
        load = stage.load(rate=RATE)
        found = Scene(stage, fleet, load, chaos)
        found.wait_in_step()
        # The guard counts a server from its first passed check on.
        wait_until(lambda: stage.status()["backends"]["web"]["capacity"] == instances, 20, "the first checks to pass")
        stack.enter_context(load)
        wait_until(lambda: load.snapshot().requests >= 30, 20, "the load to be under way")
        yield found


class LowestCapacity(Looks):
    """The fewest servers that HAProxy could send to at any moment of the block, looked at fifty times a second."""

    def __init__(self, haproxy: HAProxy) -> None:
        super().__init__()
        self.lowest = 10**6
        self.looks = 0
        self._haproxy = haproxy

    def note(self) -> None:
        with suppress(*BETWEEN_WORKERS):
            servers = self._haproxy.servers("web").values()
            self.looks += 1
            ready = [one for one in servers if not one.in_maintenance and not one.draining]
            self.lowest = min(self.lowest, sum(one.running and one.weight > 0 for one in ready))
