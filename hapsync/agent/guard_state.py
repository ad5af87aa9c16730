"""The guard state and the operators' requests, from pass to pass; together they make the rules of the next pass."""

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from hapsync.agent.state_file import keep_unread_copy, save_state, state_path
from hapsync.config.schema import Config
from hapsync.model.changes import Reason
from hapsync.model.overrides import Override, SavedState, acknowledged, expired, is_frozen
from hapsync.model.server import Address, AdminState, Observed
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import Desired, Overrides
from hapsync.plan.guard import Caution, Cautions, capacity
from hapsync.plan.guard_history import Flaps, peak, refilled, seen
from hapsync.plan.owners import Owners

log = logging.getLogger(__name__)
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class GuardState:
    """The contents of the state file for the process that holds its lock, and records too short-lived for the file.

    Capacities and refills are timed by CLOCK_BOOTTIME: it cannot be set, and it goes on while the machine sleeps.
    Overrides and freezes are timed by the wall clock, for operators name times of day.
    """

    def __init__(self, config: Config, saved: SavedState, reported: Cautions | None = None) -> None:
        """Take the contents of the state file; times of an earlier boot count as the present.

        `reported` is the guard state of the running agent, for a command that changes nothing.
        """
        self._reported = reported
        self.saved = self._saved = saved = _of_this_boot(saved)
        self.error: str | None = None
        self._config = config
        self._flaps = Flaps()
        self._owners = Owners.of(
            (config.backends[name].service, address)
            for name, refill in saved.refills.items()
            if name in config.backends
            for address in refill.own
        )
        self._released: frozenset[str] = frozenset()
        self._let_go: Mapping[str, frozenset[str]] = {}
        self._pid = 0
        self._ours: frozenset[tuple[str, Address]] = frozenset()

    def use(self, config: Config) -> None:
        """Switch to another configuration, and forget the records of backends it does not name."""
        self._config = config
        self._flaps = self._flaps.only(config.backends)
        self._keep_records(lambda name: name in config.backends)

    def _keep_records(self, is_kept: Callable[[str], bool]) -> None:
        self.saved = attrs.evolve(
            self.saved,
            peaks={name: one for name, one in self.saved.peaks.items() if is_kept(name)},
            refills={name: one for name, one in self.saved.refills.items() if is_kept(name)},
        )

    @property
    def mode(self) -> str:
        return self._config.agent.mode

    @property
    def stopped(self) -> Reason | None:
        """The reason why nothing may be changed at all; None while changes are allowed."""
        if self._config.agent.mode == "observe":
            return Reason.OBSERVING
        if self.saved.unread_version is not None:
            return Reason.OTHER_VERSION
        return Reason.FROZEN if is_frozen(self.saved, time.time()) else None

    def overrides(self) -> Overrides:
        """Return the operators' overrides, by backend and address; None marks a released one.

        A release stays pending until the current worker has shown the server as hapsync's own. A manual maint or
        drain after that is a new override. (Another worker may have started from a file without the release.)
        """
        found = {}
        for name, one in operator_overrides(self.saved).items():
            left = {at: to for at, to in one.items() if to is not None or (name, at) not in self._ours}
            if left:
                found[name] = left
        return found

    @contextlib.contextmanager
    def releasing(self, backends: Collection[str]) -> Iterator[None]:
        """Let passes in the block make the changes deferred in `backends`; on success the guard begins anew there.

        The release is for passes only: after a failed pass the records stay, and the file and reloads obey the guard.
        """
        self._released = frozenset(backends)
        try:
            yield
            self._keep_records(lambda name: name not in backends)
        finally:
            self._released = frozenset()

    def let_go(self, foreign: Mapping[str, frozenset[str]]) -> None:
        """Let the next reload take out these foreign servers, too, by backend: an operator allowed it."""
        self._let_go = {**self._let_go, **foreign}

    def forget_let_go(self) -> None:
        """Forget the foreign servers that may go: their reload was made."""
        self._let_go = {}

    def rules(self, wanted: Desired, backends: Iterable[str], *, is_full: bool = False) -> Rules:
        """Return the rules of the next pass over `backends` towards `wanted`."""
        longest_seconds = {name: one.damping_seconds for name, one in self._config.backends.items()}
        self._flaps = self._flaps.noted(wanted, _boot_seconds(), longest_seconds)
        self._owners = self._owners.noted(wanted.readings)
        cautions = dict(self.cautions(backends))
        for name in self._released & set(cautions):
            cautions[name] = attrs.evolve(cautions[name], is_released=True)
        return Rules(
            cautions,
            self.stopped,
            reads_first_checks=is_full,
            saved=self.saved,
            mode=self.mode,
            at_seconds=time.time(),
        )

    def target_rules(self) -> Rules:
        """Return the rules for the file or a reload."""
        return Rules(self.cautions(), saved=self.saved, mode=self.mode, at_seconds=time.time())

    def cautions(self, backends: Iterable[str] | None = None) -> Mapping[str, Caution]:
        """Return the guard's limits and history of each of `backends`, or of all."""
        names = self._config.backends if backends is None else backends
        if self._reported is not None:
            return {name: self._reported[name] for name in names if name in self._reported}
        now = _boot_seconds()
        found = {}
        for name in names:
            config = self._config.backends[name]
            refill = self.saved.refills.get(name)
            found[name] = Caution(
                max_loss_fraction=config.max_loss_fraction,
                min_ready=config.min_ready,
                peak=peak(self.saved.peaks.get(name, ()), now, config.guard_window_seconds),
                is_refilling=refill is not None and not refill.is_over,
                has_refilled=refill is not None and refill.is_over,
                damped=self._flaps.damped(name, now),
                let_go=self._let_go.get(name, frozenset()),
                taken=self._owners.taken(config.service),
            )
        return found

    def note(self, wanted: Desired, observed: Observed, *, pid: int | None = None) -> None:
        """Record the servers of a reading; with the worker's `pid`, record the released overrides among them, too."""
        if pid is not None:
            self._note_released(observed, pid)
        now = _boot_seconds()
        peaks, refills = dict(self.saved.peaks), dict(self.saved.refills)
        for name, have in observed.backends.items():
            config = self._config.backends.get(name)
            if config is None:
                continue
            peaks[name] = seen(peaks.get(name, ()), now, capacity(have), config.guard_window_seconds)
            want = wanted.backends.get(name)
            if want is None or name in self._released:
                continue
            known = refills.pop(name, None)
            refill = refilled(
                known,
                want,
                have,
                now,
                window_seconds=config.guard_window_seconds,
                max_loss_fraction=config.max_loss_fraction,
            )
            if refill is not None and known is None:
                own = self._owners.own(config.service) & {slot.address for slot in have.ready}
                refill = attrs.evolve(refill, own=tuple(sorted(own)))
            if refill is not None:
                refills[name] = refill
        self.saved = saved = expired(attrs.evolve(self.saved, peaks=peaks, refills=refills), time.time())
        before = self._saved
        if (saved.refills, saved.holds, saved.freeze) != (before.refills, before.holds, before.freeze):
            self.save()

    def _note_released(self, observed: Observed, pid: int) -> None:
        """Record the released servers that the worker `pid` has shown as hapsync's own."""
        if pid != self._pid:
            self._pid, self._ours = pid, frozenset()
        released = {(hold.backend, hold.address) for hold in self.saved.holds if hold.is_releasing}
        if not released:
            self._ours = frozenset()
            return
        shown = {(name, address) for name, address in released - _overridden(observed) if name in observed.backends}
        self._ours = (self._ours | shown) & released

    def before_leaving(self, wanted: Desired, observed: Observed) -> None:
        """Save the capacity to disk before any of it leaves: a killed agent must not forget it."""
        self.note(wanted, observed)
        self.save(durable=False)

    @property
    def has_released(self) -> bool:
        """Whether the file may still show a released override."""
        return any(hold.is_releasing for hold in self.saved.holds)

    def forget_released(self, observed: Observed) -> None:
        """Forget released overrides whose server is hapsync's own again, or gone, in the file (`observed`).

        An earlier end would be wrong: a HAProxy started from the older file would show an override of an unknown
        operator.
        """
        names, overridden = observed.backends, _overridden(observed)
        holds = tuple(
            hold
            for hold in self.saved.holds
            if not hold.is_releasing or hold.backend not in names or (hold.backend, hold.address) in overridden
        )
        if holds != self.saved.holds:
            self.saved = attrs.evolve(self.saved, holds=holds)
            self.save()

    def remember(self, saved: SavedState, *, asked: Override | None = None) -> None:
        """Save an operator's request, durably; `asked` is its override or release, if it is about one.

        Raises OSError when it cannot be written; then nothing has changed.
        """
        if saved.unread_version is not None:
            raise OSError(errno.EROFS, "is of another version of hapsync", state_path(self._config))
        save_state(self._config, saved)
        self.saved = self._saved = saved
        if asked is not None:  # after a new release the worker has not shown the server as hapsync's own yet
            self._ours -= {(asked.backend, asked.address)}

    def acknowledge(self) -> tuple[SavedState, tuple[str, ...]]:
        """Return the state after an operator acknowledged a lost or unreadable file, and lines to print.

        A file of another version is copied first. Raises OSError when the copy cannot be made.
        """
        saved, lines = self.saved, list[str]()
        if saved.unread_version is not None:
            overrides = keep_unread_copy(self._config, saved.unread_version)
            lines.append(f"going on without memory.json of version {saved.unread_version}; kept as {overrides}")
        if saved.lost is not None:
            lines.append(f"acknowledged: overrides and a freeze were lost; the damaged file is {saved.lost.file}")
        return acknowledged(saved), tuple(lines or ("nothing needed to be acknowledged",))

    def save(self, *, durable: bool = True) -> None:
        """Write the state file; a full disk is logged once, and HAProxy is kept in sync all the same.

        A file of another version is not overwritten.
        """
        if self.saved.unread_version is not None:
            return
        try:
            save_state(self._config, self.saved, durable=durable)
            self._saved, self.error = self.saved, None
        except OSError as error:
            if self.error is None:
                log.error("state file not written: %s; the guard state is kept in the process only", error)  # noqa: TRY400
            self.error = str(error)


def _of_this_boot(saved: SavedState) -> SavedState:
    """Return `saved`; where it is of an earlier boot, its times are the present, for the time between is unknown."""
    boot_id, now = _read_boot_id(), _boot_seconds()
    if saved.boot_id == boot_id:
        return saved
    return attrs.evolve(
        saved,
        peaks={name: ((now, max(amount for _, amount in one)),) for name, one in saved.peaks.items() if one},
        refills={name: attrs.evolve(one, since=now, changed=now) for name, one in saved.refills.items()},
        boot_id=boot_id,
    )


def operator_overrides(saved: SavedState) -> Overrides:
    """Return the operators' overrides that have not expired, by backend and address; None marks a released one."""
    found: dict[str, dict[Address, AdminState | None]] = {}
    for hold in expired(saved, time.time()).holds:
        found.setdefault(hold.backend, {})[hold.address] = None if hold.is_releasing else hold.admin
    return found


def _overridden(observed: Observed) -> set[tuple[str, Address | None]]:
    return {
        (name, slot.address) for name, one in observed.backends.items() for slot in one.slots if slot.is_overridden
    }


def _boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read_boot_id() -> str:
    try:
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    except OSError:
        return ""
