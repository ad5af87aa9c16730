"""haproxy.cfg: its text, the candidate of a reload, and the job that keeps the file current beside the passes."""

import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

import attrs

from hapsync.agent.executor import Executor, value_of
from hapsync.agent.settings import Settings, free_slots
from hapsync.errors import BrokenPromise, ConfigError, ConfigRefused, HapsyncError, WouldEmpty
from hapsync.haproxy.cfg import (
    enabled_servers,
    observed_from_file,
    parse_sections,
    skeleton,
    stats_sockets,
    stick_tables,
)
from hapsync.haproxy.foreign import Loss, losses, refuse
from hapsync.haproxy.reload import install
from hapsync.haproxy.render import labels_of, render
from hapsync.haproxy.show import with_scaling
from hapsync.model.changes import Deferred, Reason
from hapsync.model.server import Observed, Scaling
from hapsync.plan.assessment import Rules, defect_line, guarded
from hapsync.plan.desired import Desired
from hapsync.plan.diff import diff
from hapsync.plan.growth import Pending, file_due_seconds, touched
from hapsync.plan.guard import Cautions
from hapsync.plan.judge import broken_by_target
from hapsync.plan.promises import emptied
from hapsync.plan.target import TargetState, target_grown, target_now
from hapsync.system.files import read_text_or_none, signature
from hapsync.text import quoted

log = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""The pause before the next try of a text that the check command refused: a certificate or a map named in it may have
been unreadable for a moment."""


@attrs.frozen
class Seen:
    """A reading of all configured backends, their desired state, its `rules`, and the deferred changes."""

    observed: Observed
    deferred: tuple[Deferred, ...] = ()
    desired: Desired = attrs.field(factory=lambda: Desired({}))
    rules: Rules = attrs.field(factory=Rules)


@attrs.frozen
class Candidate:
    """A configuration for a reload: its text, and the target that the new worker must show.

    `lost` are the ready foreign servers that the new worker would lack.
    """

    text: str
    target: TargetState
    lost: tuple[Loss, ...] = ()


def with_filed(settings: Settings, seen: Seen) -> Seen:
    """Return `seen` with the file's servers for each unreadable backend, and with all changes there deferred.

    The state of such a backend is unknown, so its part of the file has to stay.
    """
    observed = seen.observed
    names = sorted(set(observed.unread) - set(observed.backends))
    if not names:
        return seen
    text = read_text_or_none(settings.config.haproxy.config) or ""
    filed = observed_from_file(text, names, with_foreign=True)
    kept = (Deferred(change, Reason.UNREAD) for change in diff(seen.desired.only(names), filed).changes)
    both = attrs.evolve(observed, backends={**observed.backends, **filed.backends})
    return attrs.evolve(seen, observed=both, deferred=(*seen.deferred, *kept))


def on_file(settings: Settings) -> Observed:
    """Return the servers that a HAProxy started with the present file would show."""
    current = read_text_or_none(settings.config.haproxy.config)
    return observed_from_file(current or "", tuple(settings.config.backends))


def seen_on_file(observed: Observed, wanted: Desired, cautions: Cautions) -> Seen:
    """Return `observed`, the servers of a HAProxy started with the file, with the changes deferred there."""
    return Seen(observed, guarded(observed, wanted, cautions).deferred, wanted, Rules(cautions))


def judged(target: TargetState, seen: Seen) -> TargetState:
    """Return `target`, made of `seen`; raises BrokenPromise where a HAProxy started with it would break a promise."""
    defects = broken_by_target(target, seen.rules.facts(seen.desired, seen.observed))
    if defects:
        raise BrokenPromise("; ".join(map(defect_line, defects)))
    return target


def initial_target(seen: Seen) -> TargetState:
    """Return the target for the start of a HAProxy: the slots of `seen`, and more where they do not suffice."""
    wanted = seen.desired
    target = target_now(wanted, seen.observed, seen.deferred)
    short = [shortage.backend for shortage in diff(wanted, target.as_observed()).shortages]
    return target_grown(wanted, seen.observed, short, seen.deferred) if short else target


def empty_slots(settings: Settings, target: TargetState) -> TargetState:
    """Return `target` with as many free slots as the key `slots` says for each backend without any slot."""
    free = free_slots(settings.config).backends
    return TargetState({name: backend if backend.slots else free[name] for name, backend in target.backends.items()})


def is_applied(settings: Settings, current: str | None) -> bool:
    """Return whether the file `current` was made from these settings, whatever slots it has.

    While HAProxy answers, new settings reach the file only by the reload that makes them live. The result is then
    true of the running HAProxy, too.

    Raises ConfigError when the template cannot be used.
    """
    if current is None:
        return False
    anew = render(settings.template, free_slots(settings.config, 1), settings.config, {})
    return skeleton(anew) == skeleton(current)


def new_text(settings: Settings, wanted: Desired, cautions: Cautions, seen: Seen | None) -> str | None:
    """Return the text that the file should have, None where nothing has to be written.

    Nothing is written where the file has this text already. Nothing is written, too, where HAProxy lacks a backend:
    the reload that adds the backend writes the file. `seen` is the live HAProxy, None while it is away; `cautions`
    then have the capacity of the file's servers.

    Raises ConfigError, BrokenPromise, and WouldLose where HAProxy is away and its next start would lack foreign
    servers of the file.
    """
    current = read_text_or_none(settings.config.haproxy.config)
    if seen is None:
        # Render twice: removals that wait for replacements are made in the second text, once the first has these.
        text = _to_start_with(settings, wanted, cautions, _to_start_with(settings, wanted, cautions, current))
        refuse(_lost_on_file(settings, wanted, cautions, current, text))
    else:
        target = judged(target_now(wanted, seen.observed, seen.deferred), seen)
        text = _rendered_whole(settings, wanted, target, current)
    return text if text != current else None


def _to_start_with(settings: Settings, wanted: Desired, cautions: Cautions, current: str | None) -> str | None:
    observed = observed_from_file(current or "", tuple(settings.config.backends))
    seen = seen_on_file(observed, wanted, cautions)
    target = judged(initial_target(seen), seen)
    return _rendered_whole(settings, wanted, target, current)


def _lost_on_file(
    settings: Settings, wanted: Desired, cautions: Cautions, current: str | None, text: str | None
) -> tuple[Loss, ...]:
    """Return the foreign servers of a HAProxy started with `current` that one started with `text` would lack."""
    if not current or not text or text == current:
        return ()
    names = tuple(settings.config.backends)
    before = observed_from_file(current, names, with_foreign=True)
    after = target_now(Desired({}), observed_from_file(text, names))
    return losses(before, text, after, wanted, cautions)


def _rendered_whole(settings: Settings, wanted: Desired, target: TargetState, current: str | None) -> str | None:
    """Return the file's text with `target`; `current` where HAProxy lacks a backend."""
    if not all(backend.exists for backend in target.backends.values()):
        return current
    return _rendered(settings, wanted, target, current)


def candidate_grown(settings: Settings, seen: Seen, cautions: Cautions, short: Iterable[str]) -> Candidate:
    """Return the candidate of a reload: the settings, and slots for everything that the backends in `short` lack.

    Raises ConfigError, and WouldEmpty where it would leave a serving backend without a server.
    """
    wanted = seen.desired
    current = read_text_or_none(settings.config.haproxy.config)
    tables = {name: Scaling(tables=tables) for name, tables in stick_tables(parse_sections(current or "")).items()}
    observed = with_scaling(seen.observed, tables)
    target = empty_slots(settings, target_grown(wanted, observed, short, seen.deferred, lets_in=False))
    text = _rendered(settings, wanted, target, current)
    for name in emptied(seen.observed, enabled_servers(text)):
        service = quoted(settings.config.backends[name].service)
        why = "has no instance that may serve" if name in wanted.backends else "could not be read"
        raise WouldEmpty(
            f"backend {name} serves now and would be left without a server, for service {service} {why} in Consul; "
            f"look at the service's name, the token and Consul itself"
        )
    unreachable = _unreachable_after(settings, current, text)
    if unreachable is not None:
        raise ConfigError(settings.template.name, (unreachable,))
    return Candidate(text, target, losses(seen.observed, text, target, wanted, cautions))


def _unreachable_after(settings: Settings, current: str | None, text: str) -> str | None:
    """Return why hapsync would lose HAProxy by a reload from the file `current` into `text`; None where it would not.

    The result is None, too, where `current` does not name the socket: another file of HAProxy's may name it.
    """
    now = list(map(os.path.realpath, stats_sockets(current or "")))
    then = list(map(os.path.realpath, stats_sockets(text)))
    path = settings.moved.config.haproxy.socket
    if os.path.realpath(settings.config.haproxy.socket) not in now or os.path.realpath(path) in then:
        return None
    return f"it has no `stats socket {path}`, where haproxy.socket looks for HAProxy; both must name the same"


def _rendered(settings: Settings, wanted: Desired, target: TargetState, current: str | None) -> str:
    config = settings.config
    return render(settings.template, target, config, labels_of(wanted, current, config.backends))


@attrs.frozen
class _Job:
    """A text that is checked and installed beside the passes; the future's value says whether it was put in place.

    The job speaks to no HAProxy, and installs nothing once `is_wanted` was cleared. The text was made from `wanted`
    and `settings`. `is_for_start`: the text is of other settings than the file it replaces, and is right only as long
    as no HAProxy was started from this file.
    """

    wanted: Desired
    settings: Settings
    is_for_start: bool
    is_wanted: threading.Event
    installed: Future[bool | HapsyncError]


class FileKeeper:
    """The state of the file: whether it is behind, when its next write is due, and why the last one failed.

    `error` is None while the file can be written. `made_of` is the live HAProxy of the last write, None where HAProxy
    was away. `was_late`: the last job installed a file of other settings for HAProxy's next start, and HAProxy had
    started by then. The agent's thread calls all methods; only the job runs beside it.
    """

    def __init__(self, executor: Executor) -> None:
        """Take the executor that runs jobs beside the passes."""
        self.error: str | None = None
        self.made_of: Observed | None = None
        self.was_late = False
        self._executor = executor
        self._pending: Pending | None = None
        self._written_at = -math.inf
        self._seen: tuple[int, int, int] | None = None
        self._refused: tuple[Desired, Settings] | None = None
        self._refused_until = 0.0
        self._job: _Job | None = None
        self._live: object = None
        self._is_hurried = False

    @property
    def is_behind(self) -> bool:
        """Whether the file may be out of date for HAProxy's next start, or could not be written."""
        return bool(self._pending or self._job or self.error)

    @property
    def is_working(self) -> bool:
        """Whether a job runs, or will run in a moment."""
        return self._job is not None or self._is_hurried

    @property
    def due_seconds(self) -> float | None:
        """The time of the next `write`, on the monotonic clock; None while none is due, or a job runs."""
        if self._pending is None or self._job is not None:
            return None
        return file_due_seconds(self._pending, self._written_at)

    def touch(self, *, anew: bool = False) -> None:
        """Note a change that the file should show; `anew`: a refused text is worth another try, too."""
        if anew:
            self._refused = None
        self._pending = touched(self._pending, time.monotonic())

    def hurry(self) -> None:
        """Make the file due now: backends were added or deleted live, and later changes are compared with it."""
        self.touch(anew=True)
        self._pending = Pending(-math.inf, -math.inf)
        self._is_hurried = True

    def forget(self, *, is_current: bool = False) -> None:
        """Drop the pending write: a reload writes the file, or (`is_current`) has just written it."""
        self._pending = None
        self._is_hurried = False
        if is_current:
            self.error = self._refused = None

    def stop(self) -> None:
        """Keep a running job from installing its file: changes are stopped from now on."""
        if self._job is not None:
            self._job.is_wanted.clear()

    def stop_for_start(self) -> None:
        """Keep a job for HAProxy's next start from installing its file: HAProxy has started."""
        if self._job is not None and self._job.is_for_start:
            self._job.is_wanted.clear()

    def look(self, settings: Settings) -> None:
        """Remember the file as it is now."""
        self._seen = signature(settings.config.haproxy.config)

    def is_suspect(self, settings: Settings) -> bool:
        """Return whether another program wrote the file since, or the last write failed."""
        return self.error is not None or signature(settings.config.haproxy.config) != self._seen

    def is_new_to(self, observed: Observed) -> bool:
        """Return whether the live HAProxy's servers differ from those of the last call, whoever changed them."""
        live = tuple(
            (backend.name, tuple((slot.name, slot.address, slot.admin, slot.weight) for slot in backend.slots))
            for backend in observed.backends.values()
        )
        is_new, self._live = live != self._live, live
        return is_new

    def cannot(self, error: OSError, settings: Settings) -> None:
        """Note that the file could not be read; the agent tries again by itself."""
        self._pending = None
        self._is_hurried = False
        self._failed(error, None, settings)

    def write(self, settings: Settings, wanted: Desired, cautions: Cautions, seen: Seen | None) -> None:
        """Begin to write the file for a HAProxy that would start now, unless the file has that text already.

        `seen` is the live HAProxy, None while it is away.
        """
        self._pending = None
        self._is_hurried = False
        self.made_of = seen.observed if seen is not None else None
        if not wanted.backends or (self._refused == (wanted, settings) and time.monotonic() < self._refused_until):
            return
        try:
            text = new_text(settings, wanted, cautions, seen)
            current = read_text_or_none(settings.config.haproxy.config)
            is_for_start = seen is None and not is_applied(settings, current)
        except (HapsyncError, OSError, ValueError) as error:
            self._failed(error, wanted, settings)
            return
        if text is None:
            self._written(settings)
            return
        self._written_at = time.monotonic()
        is_wanted = threading.Event()
        is_wanted.set()
        installed = self._executor.submit(
            "file", lambda: install(settings.config.haproxy, text, is_wanted=is_wanted.is_set)
        )
        self._job = _Job(wanted, settings, is_for_start, is_wanted, installed)

    def finish(self, *, wait: bool = False) -> bool:
        """Take the result of the job where it has ended, or (`wait`) once it ends; return whether there was one."""
        job = self._job
        if job is None or not (wait or job.installed.done()):
            return False
        installed = value_of(job.installed)
        self._job = None
        self.was_late = job.is_for_start and installed is True and not job.is_wanted.is_set()
        if isinstance(installed, HapsyncError):
            self._failed(installed, job.wanted, job.settings)
        elif installed:
            log.info("file %s written", job.settings.config.haproxy.config)
            self._written(job.settings)
        else:
            self.touch()
        return True

    def _written(self, settings: Settings) -> None:
        self.error = self._refused = None
        self.look(settings)

    def _failed(self, error: Exception, wanted: Desired | None, settings: Settings) -> None:
        if str(error) != self.error:
            log.error("file not written: %s", error)
        self.error = str(error)
        if wanted is not None and isinstance(error, ConfigError | ConfigRefused):  # others may pass
            self._refused = (wanted, settings)
            self._refused_until = time.monotonic() + REFUSED_SECONDS
        self.look(settings)
