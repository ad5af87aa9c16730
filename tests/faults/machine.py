"""A world of real programs in which everything may happen at any moment: what can be done in it, and its end.

`test_machine.py` has Hypothesis choose what is done; `watcher.py` looks at what comes of it.
"""

import http.client
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from attrs import evolve

from hapsync.api.client import ask_agent
from hapsync.api.messages import FreezeAll
from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import HAPSYNC, Stage
from tests.faults.watcher import FREE, Laws, Slot, Slow, Trace, Watcher
from tests.harness.consul import Status
from tests.harness.haproxy import ReloadFailedError
from tests.harness.ports import free_port
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT

BACKENDS = {"web": 5, "api": 3}
"""And their slots at first: few, so that some growths need a reload."""
LAWS = Laws(window_seconds=4.0, max_loss_fraction=0.5, min_ready=1, backends=tuple(BACKENDS))
LARGEST = 9
DEFECT = "a defect of hapsync, please report it"
_BACKEND = "guard_window_seconds = 4\nmax_loss_fraction = 0.5\nmin_ready = 1\ndamping_seconds = 1"
_CONVERGE_SECONDS = 20.0


class Violation(AssertionError):
    """hapsync did what it must never do, or did not do what it must; with all that was done before."""


class World:
    """The programs, and everything that may be done to them. Start an example with `reset`, end it with `finish`."""

    def __init__(self, stage: Stage, fleets: dict[str, Fleet], watcher: Watcher, command: Sequence[str]) -> None:
        self.stage, self.fleets, self.watcher = stage, fleets, watcher
        self.trace = Trace()
        self._command = (*command, "agent", "--config", str(stage.config_path))
        self._config = stage.haproxy.config.read_text()
        self._dead: set[str] = set()
        self._odd: list[tuple[str, str]] = []
        self._snapshot = b""
        self._requests: list[threading.Thread] = []
        self.is_consul_up = True
        self.is_agent_up = False
        self.failure: Violation | None = None

    # Beginning and end

    def reset(self, *, is_sound: bool = True) -> None:
        """Have everything as at first; raises the failure if there was one, for what is real is not played twice."""
        if self.failure is not None:
            raise self.failure
        self._stop_agent()
        self.restore_consul()
        self._remove_odd()
        for fleet in self.fleets.values():
            for name in list(fleet.members):
                fleet.remove(name)
            fleet.maintained_nodes.clear()
        self._dead.clear()
        self.trace.lines.clear()
        with self.watcher.restart():
            self.stage.haproxy.kill()
            shutil.rmtree(self.stage.work / "state", ignore_errors=True)
            self.stage.haproxy.config.write_text(self._config)
            self.stage.haproxy.start()
        self.watcher.reset()
        for service, count in (("web", 4), ("api", 2)):
            for _ in range(count):
                self.register(service)
        self._snapshot = self.stage.consul.snapshot()
        self.start_agent()
        for service in BACKENDS if is_sound else ():
            self.stage.wait_equal(service)
        self.trace.lines.clear()

    def check(self) -> None:
        """Raise `Violation` if the watcher saw any, or if the agent found a defect: a sound one never does."""
        defects = [line for line in self._logged() if DEFECT in line]
        if self.watcher.violations or defects:
            raise self._violation("\n".join((*self.watcher.violations[:5], *defects[:5])))

    def finish(self) -> None:
        """End all faults, and require that HAProxy becomes exactly what Consul says."""
        for request in self._requests:
            request.join()
        self.restore_consul()
        self._remove_odd()
        for service, fleet in self.fleets.items():
            for name in [name for name in fleet.members if name in self._dead]:
                self._remove(service, name)
            for member in list(fleet.members.values())[:3]:
                fleet.put(evolve(member, status="passing", maintenance=False))
            while len(fleet.members) < 2:
                self.register(service)
        if not self.is_agent_up:
            self.start_agent()
        self.thaw()
        self._look_at_holds()
        for backend, address in {*self.watcher.overridden, *self.watcher.deferred}:
            self.release(backend, address)
        self.check()
        self._converge()
        self.check()

    def _converge(self) -> None:
        unhappy = [service for service in BACKENDS if not self._becomes_equal(service, _CONVERGE_SECONDS / 2)]
        for service in unhappy:
            self.release_backend(service)  # a service that came back smaller is a person's to let go
        for service in BACKENDS:
            if not self._becomes_equal(service, _CONVERGE_SECONDS):
                raise self._violation(f"{service} did not converge: {self.stage.differences(service)}")
        overridden = [key for key, slot in self.watcher.last.slots.items() if slot.is_overridden]
        if overridden:
            raise self._violation(f"set aside, and nobody did it: {overridden}")
        try:
            wait_until(lambda: self.stage.hapsync("status").returncode == 0, 20, "status", interval_seconds=0.3)
        except TimeoutError as error:
            raise self._violation(f"not in sync: {self.stage.hapsync('status').stdout}") from error

    def _becomes_equal(self, service: str, seconds: float) -> bool:
        try:
            self.stage.wait_equal(service, seconds)
        except TimeoutError:
            return False
        return True

    def _look_at_holds(self) -> None:
        """Whatever happened in between, what was to be held is held."""

        def is_held() -> bool:
            slots = self.watcher.last.slots.items()
            return not any(
                slot.serves and (where, slot.address) in self.watcher.deferred for (where, _), slot in slots
            )

        try:
            wait_until(is_held, 20, "the holds")
        except TimeoutError as error:
            raise self._violation(f"held and yet serving: {self.watcher.deferred}") from error

    def _violation(self, what: str) -> Violation:
        done, logged = "\n".join(self.trace.lines), "\n".join(self._logged()[-60:])
        self.failure = Violation(f"{what}\n-- done:\n{done}\n-- the agent's log:\n{logged}")
        return self.failure

    def _logged(self) -> list[str]:
        return (self.stage.work / "agent.log").read_text().splitlines()

    # Consul and the instances

    def register(self, service: str, *, is_dead: bool = False) -> None:
        fleet = self.fleets[service]
        if is_dead:
            member = Member(f"{service}-dead-{free_port()}", "node-a", free_port())
            self._dead.add(member.name)
        else:
            member = fleet.start_server()
        self.trace.note(f"register {service} {member.address}{' which is dead' if is_dead else ''}")
        self.watcher.told(lambda: self.watcher.given[service].add(member.address))
        fleet.put(member)

    def register_odd(self, service: str) -> None:
        """Somebody registers what nobody can be sent to; whoever else is there must not notice."""
        self.trace.note(f"register {service} without a port")
        name = f"{service}-odd-{len(self._odd)}"
        self._odd.append(("node-a", name))
        self.stage.consul.put(service, name, node="node-a", address=HOST, port=0, status="passing")

    def _remove_odd(self) -> None:
        while self._odd:
            self.stage.consul.remove(*self._odd.pop())

    def deregister(self, service: str, which: int) -> None:
        member = self._pick(service, which)
        if member is not None and len(self.fleets[service].members) > 1:
            self.trace.note(f"deregister {service} {member.address}")
            self._remove(service, member.name)

    def _remove(self, service: str, name: str) -> None:
        fleet = self.fleets[service]
        if name in self._dead:
            member = fleet.members.pop(name)
            self._dead.discard(name)
            self.stage.consul.remove(member.node, name)
        else:
            fleet.remove(name)

    def put(self, service: str, which: int, change: Callable[[Member], Member]) -> None:
        member = self._pick(service, which)
        if member is not None:
            changed = change(member)
            self.trace.note(f"{service} {changed.address} {changed.status} {changed.weights} {changed.maintenance}")
            self.fleets[service].put(changed)

    def set_status(self, service: str, which: int, status: Status) -> None:
        self.put(service, which, lambda one: evolve(one, status=status))

    def vanish(self, service: str) -> None:
        self.trace.note(f"vanish {service}")
        self.fleets[service].vanish()

    def come_back(self) -> None:
        """All instances register again."""
        self.trace.note("come back")
        for fleet in self.fleets.values():
            for member in list(fleet.members.values()):
                fleet.put(member)

    def kill_consul(self) -> None:
        self.trace.note("kill Consul")
        self.is_consul_up = False
        self.stage.consul.kill()

    def pause_consul(self) -> None:
        self.trace.note("pause Consul")
        self.is_consul_up = False
        self.stage.consul.pause()

    def restore_consul(self) -> None:
        """It goes on, or starts with nothing; and all register again."""
        if not self.is_consul_up:
            self.trace.note("restore Consul")
            self.stage.consul.resume()
            if not self.stage.consul.is_running:
                self.stage.consul.start()
            self.is_consul_up = True
        self.come_back()

    def forget(self) -> None:
        """Consul restarts at once and has forgotten everything."""
        self.trace.note("Consul forgets")
        self.stage.consul.kill()
        self.stage.consul.start()

    def rewind(self, pause_seconds: float) -> None:
        """The snapshot of the beginning is restored into the running Consul; who left since leaves once more."""
        self.trace.note("Consul's first snapshot is restored")
        self.stage.consul.restore(self._snapshot)
        time.sleep(pause_seconds)
        for service, fleet in self.fleets.items():
            for entry in self.stage.consul.health(service):
                if entry["Service"]["ID"] not in fleet.members:
                    self.stage.consul.remove(entry["Node"]["Node"], entry["Service"]["ID"])

    def _pick(self, service: str, which: int) -> Member | None:
        members = list(self.fleets[service].members.values())
        return members[which % len(members)] if members else None

    # The agent

    def start_agent(self) -> None:
        self.trace.note("start the agent")
        asked = self.stage.work / "run" / "hapsync.sock"
        asked.unlink(missing_ok=True)  # of one that was killed
        self.stage.agent = Process(self._command, self.stage.work / "agent.log", folder=ROOT)
        wait_until(asked.exists, 20, "the agent", process=self.stage.agent)

        def up() -> None:
            self.watcher.is_agent_up = self.is_agent_up = True

        self.watcher.told(up)

    def kill_agent(self) -> None:
        self.trace.note("kill the agent")
        self.stage.agent.kill()
        self.is_agent_up = False
        self.watcher.agent_ended(is_killed=True)

    def stop_agent(self) -> None:
        self.trace.note("stop the agent")
        self._stop_agent()

    def _stop_agent(self) -> None:
        self.stage.stop_agent()
        self.is_agent_up = False
        self.watcher.agent_ended(is_killed=False)

    # HAProxy

    def restart_haproxy(self) -> None:
        self.trace.note("restart HAProxy")
        with self.watcher.restart():
            self.stage.haproxy.kill()
            self.stage.haproxy.start()

    def reload_haproxy(self) -> None:
        self.trace.note("reload HAProxy")
        with self.watcher.restart(), suppress(ReloadFailedError):
            wait_until(self.stage.haproxy.reload, 20, "the reload")

    # People

    def set_override(self, backend: str, which: int, state: str) -> None:
        """`set server ... state`, by a person."""
        time.sleep(0.15)
        with self.watcher.hand() as sample:
            slots = [(name, one) for name, one in sample.of(backend).items() if one.serves]
            if slots:
                name, slot = slots[which % len(slots)]
                self.trace.note(f"by hand {backend}/{name} {slot.address} {state}")
                self.stage.haproxy.ask(f"set server {backend}/{name} state {state}")
                self.watcher.overridden[backend, slot.address] = name

    def set_ready(self, backend: str, which: int) -> None:
        """A person undoes what a person did."""
        with self.watcher.hand() as sample:
            slots = [(name, one) for name, one in sample.of(backend).items() if one.is_overridden]
            slots = [(name, one) for name, one in slots if one.address in self.watcher.given[backend]]
            if slots:
                name, slot = slots[which % len(slots)]
                self.trace.note(f"by hand {backend}/{name} {slot.address} ready")
                self.watcher.overridden.pop((backend, slot.address), None)
                self.stage.haproxy.ask(f"set server {backend}/{name} state ready")

    def set_weight(self, backend: str, which: int, weight: int) -> None:
        """`set server ... weight`, by a person; a pass that takes the server out just then leaves an override."""
        time.sleep(0.15)
        with self.watcher.hand() as sample:
            slots = [(name, one) for name, one in sample.of(backend).items() if one.serves]
            if slots:
                name, slot = slots[which % len(slots)]
                self.trace.note(f"by hand {backend}/{name} {slot.address} weight {weight}")
                self.stage.haproxy.ask(f"set server {backend}/{name} weight {weight}")

    def point(self, backend: str) -> None:
        """A person points a free slot somewhere, and leaves it in maint: it is theirs from then on."""
        time.sleep(0.15)
        port = free_port()
        with self.watcher.hand() as sample:
            free = [name for name, one in sample.of(backend).items() if one.address == FREE and one.weight > 0]
            if free:
                name = free[-1]
                self.trace.note(f"by hand {backend}/{name} at port {port}")
                self.stage.haproxy.ask(f"set server {backend}/{name} addr {HOST} port {port}")
                self.watcher.overridden[backend, f"{HOST}:{port}"] = name

    def hold(self, backend: str, which: int, command: str) -> None:
        """`hapsync hold` or `hapsync drain`."""
        used = [one.address for one in self.watcher.last.of(backend).values() if one.serves]
        if not used:
            return
        address = used[which % len(used)]
        self.watcher.told(lambda: self.watcher.deferred.add((backend, address)))
        code = self._hapsync(command, f"{backend}/{address}")
        if code not in {0, 2}:  # its server is gone meanwhile
            self.watcher.told(lambda: self.watcher.deferred.discard((backend, address)))
        elif code == 0:
            self.watcher.told(lambda: self._note_deferred(backend, address))

    def _note_deferred(self, backend: str, address: str) -> None:
        for name, slot in self.watcher.last.of(backend).items():
            if slot.address == address and slot.is_overridden:
                self.watcher.overridden[backend, address] = name

    def release(self, backend: str, address: str) -> None:
        """`hapsync release BACKEND/SERVER`."""

        def forget() -> None:
            self.watcher.deferred.discard((backend, address))
            self.watcher.overridden.pop((backend, address), None)

        self.watcher.told(forget)
        code = self._hapsync("release", f"{backend}/{address}")
        if code not in {0, 2}:
            raise self._violation(f"{backend} {address} cannot be released")

    def release_some(self, which: int) -> None:
        known = sorted({*self.watcher.overridden, *self.watcher.deferred})
        if known:
            self.release(*known[which % len(known)])

    def release_backend(self, backend: str) -> None:
        with self.watcher.released(backend):
            self._hapsync("release", backend)

    def freeze(self) -> None:
        if self._hapsync("freeze") == 0:
            self._frozen()

    def freeze_at_once(self) -> None:
        """The agent is asked without the third of a second that a command takes to start."""
        self.trace.note("freeze at once")
        reply = ask_agent(str(self.stage.work / "run"), FreezeAll(None, "test"), 10)
        assert reply is not None
        assert reply.is_ok
        self._frozen()

    def _frozen(self) -> None:
        def frozen() -> None:
            self.watcher.is_frozen = True

        self.watcher.told(frozen)

    def thaw(self) -> None:
        self._thawed()
        self._hapsync("thaw")

    def _thawed(self) -> None:
        def thawed() -> None:
            self.watcher.is_frozen = False

        self.watcher.told(thawed)

    def _hapsync(self, command: str, *arguments: str) -> int:
        ended = self.stage.hapsync(command, *arguments)
        self.trace.note(f"hapsync {command} {' '.join(arguments)}: {ended.returncode} {ended.stdout.strip()[:200]}")
        return ended.returncode

    # Traffic

    def request_slowly(self, backend: str, milliseconds: int = 1200) -> None:
        """A request that keeps its server's slot busy; the watcher is told of it when it has ended."""
        pid = self.watcher.last.pid
        thread = threading.Thread(target=self._ask_slowly, args=(pid, backend, milliseconds), daemon=True)
        thread.start()
        self._requests = [*(one for one in self._requests if one.is_alive()), thread]

    def _ask_slowly(self, pid: int, backend: str, milliseconds: int) -> None:
        path = f"{'' if backend == 'web' else '/' + backend}/slow?ms={milliseconds}"
        connection = http.client.HTTPConnection(HOST, self.stage.frontend_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            address = response.read().decode().strip()
        except (OSError, http.client.HTTPException):
            return  # lost with the HAProxy that had it
        finally:
            connection.close()
        ended = time.monotonic()
        if response.status == http.client.OK:
            began = ended - milliseconds / 1000 + 0.1
            self.watcher.slow(Slow(pid, backend, address, began, ended - 0.1))

    def slots(self, backend: str) -> dict[str, Slot]:
        return self.watcher.last.of(backend)


@contextmanager
def open_world(*, broken: str | None = None) -> Iterator[World]:
    """Everything running; `broken` names the precaution that the agent is without."""
    command = (str(HAPSYNC),) if broken is None else (sys.executable, "-m", "tests.faults.broken", broken)
    with ExitStack() as stack:
        stage = stack.enter_context(
            Stage(
                BACKENDS,
                server_options="check inter 200ms",
                agent=False,
                agent_options="resync_seconds = 1",
                backend_options=_BACKEND,
            )
        )
        text = stage.config_path.read_text()
        stage.config_path.write_text(text.replace("[haproxy]\n", "[haproxy]\nreload_gap_seconds = 0.5\n", 1))
        fleets = {name: stack.enter_context(Fleet(stage, name, linger_seconds=3)) for name in BACKENDS}
        watcher = stack.enter_context(Watcher(stage.haproxy.socket_path, LAWS))
        yield World(stage, fleets, watcher, command)
