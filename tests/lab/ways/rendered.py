"""Ways that render the server lines by the clock and replace HAProxy each time: `Rendered`."""

import abc
import json
import threading
import time
from typing import ClassVar

from tests.harness.haproxy import ReloadFailedError
from tests.harness.processes import ProcessDiedError, wait_until
from tests.lab.config import template
from tests.lab.programs import SpacedHAProxy, SpacedHelper
from tests.lab.ways.way import Place, Way, WayError, all_of, haproxy_at

_DIES_SECONDS = 1.0
"""A master ends so soon after its worker was killed."""


class Rendered(Way):
    """The server lines are rendered from Consul by the clock, and HAProxy replaced each time: by `replace`.

    By the clock, whether anything has changed or not. What HAProxy refuses (`haproxy -c`) is not installed.
    """

    is_master: ClassVar[bool]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.haproxy = self.another()
        self._renderer: SpacedHelper | None = None
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._clock = threading.Thread(target=self._keep, daemon=True)
        self._acting = threading.Lock()

    @abc.abstractmethod
    def replace(self) -> None:
        """Have HAProxy serve by the configuration that was just written."""

    def another(self) -> SpacedHAProxy:
        """A HAProxy that is not started."""
        return haproxy_at(self.place, is_master=self.is_master)

    def prepare(self) -> None:
        place = self.place
        path = place.work / "haproxy.cfg.template"
        path.write_text(template(self.haproxy.socket_path), encoding="utf-8")
        arguments = {
            "consul": place.consul.url,
            "template": str(path),
            "config": str(self.haproxy.config),
            "haproxy": place.haproxy,
        }
        self._renderer = renderer = SpacedHelper(
            place.space, "tests.lab.ways.renderer", place.work, json.dumps(arguments)
        )
        try:
            renderer.ask("render")
        except BaseException:
            renderer.stop()
            raise

    def start(self) -> None:
        self.haproxy.start()
        self._clock.start()

    def stop(self) -> None:
        self._ending.set()
        if self._clock.ident is not None:
            self._clock.join()
        if self._renderer is not None:
            self._renderer.stop()
        self.haproxy.stop()
        if self._failure is not None:
            raise WayError(f"{self.name}: {self._failure}") from self._failure

    def tools(self) -> frozenset[int]:
        return all_of(None if self._renderer is None else self._renderer.process)

    def revive(self) -> None:
        with self._acting:
            super().revive()

    def _keep(self) -> None:
        due = time.monotonic()
        assert self._renderer is not None
        try:
            # From turn to turn, so that how long one takes does not add up.
            while not self._ending.wait((due := due + self.place.interval_seconds) - time.monotonic()):
                if self._renderer.ask("render")["is_new"]:  # else systemd starts nothing after a job that failed
                    with self._acting:
                        self._replace_unless_ended()
        except Exception as error:  # noqa: BLE001  # told by `stop`
            self._failure = error

    def _replace_unless_ended(self) -> None:
        """One that has ended by itself is the supervisor's to start again: nothing is reloaded until then."""
        if not self.haproxy.process.running:
            return
        try:
            self.replace()
        except (OSError, ReloadFailedError, ProcessDiedError, TimeoutError):
            try:
                wait_until(lambda: not self.haproxy.process.running, _DIES_SECONDS, "its end")
            except TimeoutError:
                pass
            else:
                return
            raise


class Restart(Rendered):
    """Stop, start: nobody listens in between, and what is under way is cut."""

    name = "restart"
    is_master = True

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, HAProxy stopped (SIGTERM) and started, every {interval_seconds:g} s"

    def replace(self) -> None:
        self.haproxy.stop()
        self.haproxy.start()


class Reload(Rendered):
    """A new process is started beside the old one, with -sf and without -x.

    So it binds listening sockets of its own (`SO_REUSEPORT` lets it) and then tells the old one to finish
    (management.txt, section 4). Connections that the kernel has completed for the old sockets, but which the old
    process has not accepted when it closes them, are reset. With -x, or in master-worker mode, the sockets
    themselves are handed over, and nothing is in between.
    """

    name = "reload, no hand-over"
    is_master = False

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._old: list[SpacedHAProxy] = []

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, a new HAProxy started with -sf and without -x, every {interval_seconds:g} s"

    def replace(self) -> None:
        ready = self.another()
        ready.start("-sf", *(str(pid) for pid in self.workers()))
        before = (*self._old, self.haproxy)
        self._old = [one for one in before if one.process.running]
        self.haproxy = ready
        for one in before:
            if not one.process.running:
                one.stop()  # so that nothing of it stays in the process table

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            for one in self._old:
                one.stop()

    def workers(self) -> frozenset[int]:
        return frozenset(one.process.pid for one in (*self._old, self.haproxy) if one.process.running)


class SeamlessReload(Rendered):
    """Master and workers: the master starts a new worker, which gets the listening sockets."""

    name = "seamless reload"
    is_master = True

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, the master reloaded through its socket, every {interval_seconds:g} s"

    def replace(self) -> None:
        self.haproxy.reload()
