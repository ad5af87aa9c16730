"""The agent: decides when a pass, a reload, the file and the answer to an operator are due.

One thread owns all state of the agent, and it alone speaks to the live HAProxy's socket. The thread sleeps on one
queue. Three kinds of threads run beside it, and none of them writes into the agent's state:

- the watches of Consul and the request for a permit: each owns its data, and puts a name on the queue;
- the threads of the agent's own socket: each puts an operator's request on the queue, and waits for the answer;
- work that takes longer than a change may wait (`Executor`): the check of a candidate, the file, questions about old
  workers. Each is a function of values. Its result is a future, and the agent's thread finds it done when the queue
  wakes it.
"""

import contextlib
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hapsync.agent.acts import ALIVE_SECONDS, CATALOG_SECONDS, Acts
from hapsync.agent.consumer import Consumer, Left
from hapsync.agent.operator import answer_always
from hapsync.agent.reconcile import Outcome
from hapsync.agent.schedule import RETRY_SECONDS, Finding, Follower
from hapsync.agent.settings import Settings
from hapsync.api.messages import Apply, ReleaseBackend, Reply, Request
from hapsync.api.server import Pending
from hapsync.errors import HapsyncError, RuntimeAPIError, Withdrawn
from hapsync.model.catalog import Catalog
from hapsync.model.overrides import SavedState
from hapsync.plan.assessment import untold
from hapsync.text import shown

log = logging.getLogger(__name__)


class Agent(Acts):
    """The agent's one thread; `run` returns after `stop`."""

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        saved: SavedState,
        keep_locks: Callable[[], None] = lambda: None,
        others: Iterable[Callable[[Callable[[], Catalog]], Consumer[Any, Any]]] = (),
    ) -> None:
        """Take the settings and the saved state; `read_again` reads the settings afresh for `reread_settings`.

        `keep_locks` is called now and then, and makes removed lock files again. Each of `others` is called with a
        function for the current catalog, and makes one more consumer beside HAProxy's backends.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._queue: queue.SimpleQueue[str | Pending] = queue.SimpleQueue()
        super().__init__(settings, read_again, saved, self._queue.put)
        self._asked: deque[Pending] = deque()
        self._keep_locks = keep_locks
        self._others = [Follower(make(self._following.catalog)) for make in others]
        self._is_stopping = False
        self._is_asked_to_reload = False
        self._alive_at = self._full_at = 0.0

    def stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self._is_stopping = True
        self._queue.put("")

    def reread_settings(self) -> None:
        """Read hapsync.toml and the template again, soon; safe in a signal handler."""
        self._is_asked_to_reload = True
        self._queue.put("")

    def ask(self, pending: Pending) -> None:
        """Answer an operator's request, soon; safe in any thread."""
        self._queue.put(pending)

    def run(self) -> None:
        """Follow Consul until `stop`."""
        self._following.start()
        self._discovering.start()
        self._find_haproxy()
        self._reloads.compare(time.monotonic() + CATALOG_SECONDS)
        self._found(Finding.STARTED)
        try:
            while not self._is_stopping:
                self._wait()
                if not self._is_stopping:
                    self._step_safely()
        finally:
            self._reloads.release_permit()
            self._following.stop()
            self._discovering.stop()
            self._old.pause()
            self._file.finish(wait=True)
            if self._file.is_behind and self._haproxy.process is not None:
                self._write_file()  # HAProxy may restart before hapsync does
                self._file.finish(wait=True)
            self._guard_state.save()
            self._publish()

    def _wait(self) -> None:
        """Sleep until a wake-up comes or work falls due; several wake-ups become one."""
        woken: set[str] = set()
        timeout_seconds = max(0.0, self._next_at() - time.monotonic())
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get(timeout=timeout_seconds)
                timeout_seconds = 0.0
                if isinstance(item, str):
                    woken.add(item)
                else:
                    self._asked.append(item)
        for one in (self._follower, *self._others):
            one.schedule.add(one.consumer.parts(woken))
        if self._reconciler.parts(woken) and self._haproxy.is_down:
            self._found(Finding.SERVERS_CHANGED)

    def _next_at(self) -> float:
        times = [self._alive_at, self._full_at, self._schedule.retry_at, self._grow_at()]
        times += [
            self._file.due_seconds,
            self._publishing.due_seconds,
            *(one.schedule.retry_at for one in self._others),
        ]
        return min(at for at in times if at is not None)

    def _step_safely(self) -> None:
        """Make a step; a defect in it is logged, and everything is read afresh a moment later."""
        try:
            self._step()
        except Exception:
            log.exception("a defect of hapsync, please report it; HAProxy keeps what it has")
            self._found(Finding.DEFECT)
            time.sleep(RETRY_SECONDS)

    def _step(self) -> None:
        if self._is_asked_to_reload:
            self._is_asked_to_reload = False
            self._take_new_settings()
        self._answer_requests()
        self._discover()
        now = time.monotonic()
        is_full = now >= self._full_at
        if is_full:
            self._full_at = now + self._settings.config.agent.resync_seconds
            self._found(Finding.RESYNC)
            if self._haproxy.is_down:
                self._find_haproxy()
            if self._file.is_suspect(self._settings):
                self._found(Finding.FILE_CHANGED)
        self._schedule.look()
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_SECONDS
            self._keep_locks()
            self._look_whether_alive()
            self._schedule.look_at_waiting()
            self._schedule.add(self._reloads.rollout.short)  # a slot may have fallen idle
            self._look_whether_stopped()
            if self._old.step(self._settings.config, self._desired()):
                self._found(Finding.NEWS)
        grow_at = self._grow_at()
        if grow_at is not None and now >= grow_at:
            self._schedule.add(self._reloads.rollout.short)
        if self._schedule.now and self._haproxy.process is not None:
            self._pass(is_full=is_full)
        grow_at = self._grow_at()
        if grow_at is not None and time.monotonic() >= grow_at:
            self._grow()
        if self._file.finish():
            self._file_is_written()
            self._found(Finding.NEWS)
        file_at = self._file.due_seconds
        if file_at is not None and time.monotonic() >= file_at:
            self._write_file()
        self._follow_others(is_full=is_full)
        if self._publishing.is_due:
            self._publish()

    def _follow_others(self, *, is_full: bool) -> None:
        resync_seconds = self._settings.config.agent.resync_seconds
        for one in self._others:
            one.schedule.add(one.consumer.parts() if is_full else ())
            one.schedule.look()
            one.schedule.look_at_waiting()
            due = frozenset(one.schedule.now)
            if due and not self._stopped:
                try:
                    one.step(resync_seconds, is_full=is_full)
                except HapsyncError as error:
                    log.warning("%s: %s", type(one.consumer).__name__, error)
                    one.schedule.note(Left(due, again=due), resync_seconds)

    def _look_whether_stopped(self) -> None:
        stopped = self._guard_state.stopped
        if stopped is not self._stopped:
            self._stopped = stopped
            log.warning("changes are %s", f"stopped: {stopped.value}" if stopped else "made again")
            self._found(Finding.STOPPED_OR_NOT)
            if stopped:
                self._file.stop()
                self._reloads.release_permit()

    def _answer_requests(self) -> None:
        while self._asked:
            self._answer(self._asked.popleft())

    def _answer(self, pending: Pending) -> None:
        """Carry out an operator's request, unless its client has left: a hanging HAProxy may have taken minutes."""
        if not pending.is_wanted:
            log.warning("not done, %s has withdrawn it: %s", pending.request.who, type(pending.request).__name__)
            return
        losing = self._reloads.rollout.losing  # the losses shown to the operator, before settings are read again
        if isinstance(pending.request, Apply):
            self._take_new_settings()

        def make_pass(backends: Collection[str]) -> Outcome:
            return self._pass_now(backends, ensure_wanted)

        def ensure_wanted() -> None:
            if not pending.is_wanted:
                raise Withdrawn(f"withdrawn by {pending.request.who}; nothing was done")

        config = self._settings.config
        match pending.request:
            # Consent to the loss of foreign servers is no consent to the removals that the guard defers.
            case ReleaseBackend(backend=name) if (
                name in losing and name in config.backends and not self._guard_state.stopped
            ):
                deferred = f"the changes that the guard defers in {name} stay deferred"
                reply = Reply.not_done(f"{deferred}; for that, `hapsync release {name}` after the reload")
            case request:
                reply = answer_always(request, self._guard_state, config, make_pass, self._why_unknown, ensure_wanted)
        if pending.is_wanted:
            reply = self._let_go(pending.request, losing, reply)
        self._look_whether_stopped()  # a freeze counts from its answer on, also for a reload that is due
        self._publish()  # the next `hapsync status` should show the result
        pending.respond(reply)

    def _let_go(self, request: Request, losing: Mapping[str, frozenset[str]], reply: Reply) -> Reply:
        """Let the next reload lose the foreign servers for which one was refused, where `request` consents to it."""
        match request:
            case ReleaseBackend(backend=backend):
                released = {name: servers for name, servers in losing.items() if name == backend}
            case Apply(force=True):
                released = dict(losing)
            case _:
                return reply
        if not released or self._guard_state.stopped:
            return reply
        self._guard_state.let_go(released)
        if self._reloads.rollout.not_taken is not None:
            self._take_new_settings()
        self._reloads.rollout = self._reloads.rollout.mended()
        whats = [f"{name}/{shown(server)}" for name, servers in released.items() for server in sorted(servers)]
        log.info("released by %s for the next reload: %s", request.who, ", ".join(whats))
        told = f"the agent reloads HAProxy in a moment, without {', '.join(whats)}"
        lines = (line for line in reply.lines if not line.startswith(("settings not taken", "HAProxy is ")))
        return Reply.not_done(*lines, told)

    def _why_unknown(self) -> Sequence[str]:
        """Return the reasons why HAProxy's agreement with Consul and the settings is unknown, a line each."""
        states, rollout = self._following.states().items(), self._reloads.rollout
        errors = {service: state.error for service, state in states if state.error is not None}
        lines = [*untold(self._settings.config, self._desired(), errors)]
        if rollout.problem:
            lines.append(rollout.problem)
        elif rollout.settings_due_seconds is not None:
            lines.append(f"{rollout.settings_why}: HAProxy is brought there in a moment")
        return lines

    def _pass_now(self, backends: Collection[str], ensure_wanted: Callable[[], None]) -> Outcome:
        """Make a pass over `backends` and return its outcome.

        Raises RuntimeAPIError; and Withdrawn, from `ensure_wanted`, where the client waits no more: nothing was done
        then.
        """
        self._schedule.add(backends)
        due = set(self._schedule.now)
        try:
            outcome = self._pass(is_full=False, before_acting=ensure_wanted)
        except Withdrawn:
            self._schedule.add(due)  # the agent's own next pass takes them
            raise
        if outcome is None:
            why = self._haproxy.error or "; ".join(self._why_unknown()) or "HAProxy was not reached yet"
            raise RuntimeAPIError(f"{why}; nothing was done, ask again")
        return outcome
