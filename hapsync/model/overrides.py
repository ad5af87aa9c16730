"""The state that hapsync keeps over its own restart: overrides, a freeze, and the guard's records. To and from JSON.

The state contains no facts of HAProxy and Consul, for both are read anew. The holder of the lock keeps the state in a
file.
"""

import math
from collections.abc import Mapping

import attrs

from hapsync.model.changes import Reason
from hapsync.model.json_file import from_file, to_file
from hapsync.model.server import Address, AdminState, canonical_host

VERSION = 1
"""The version of the file; it changes when a field is removed or gets another meaning. A new version reads the one
before, too."""


@attrs.frozen
class Freeze:
    """An operator's freeze of all changes, from `at` to `until` (None: until `thaw`).

    Times are seconds of the wall clock, for a freeze must outlast a reboot of the machine.
    """

    at: float
    until: float | None
    who: str
    reason: str

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


@attrs.frozen
class Override:
    """An operator's override: the server with `address` is to be in `admin`, MAINT or DRAIN.

    Times are seconds of the wall clock; an `until` of None means until a release. The override belongs to the
    address, for a server may get another slot. `is_releasing`: an operator released the override, or its time is
    over. The record stays until HAProxy shows the slot as hapsync's again, so hapsync's own maint is never taken for
    an operator's.
    """

    backend: str
    address: Address
    admin: AdminState
    at: float
    until: float | None
    who: str
    reason: str
    is_releasing: bool = False

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


@attrs.frozen
class Refill:
    """The return of a backend that lost all its servers at once.

    `was`: the number that served before; `serving`: the number that serves since `changed`; `since`: the beginning.
    `is_over`: the refill has ended, and is remembered so that the same reading does not begin it again. `own`: the
    addresses of this service alone, before another service may get them. Both times are seconds of the boot clock,
    which no one sets; they mean nothing after a reboot (`SavedState.boot_id`).
    """

    was: int
    since: float
    changed: float
    serving: int
    is_over: bool = False
    own: tuple[Address, ...] = ()


@attrs.frozen
class Lost:
    """A damaged state file, found `at` (seconds of the wall clock), kept as `file`; its content is lost."""

    at: float
    file: str


@attrs.frozen
class SavedState:
    """The whole state; `peaks` (boot clock seconds and servers) and `refills`, both by backend, are the guard's.

    `under_way`: the whole backends that are being added to the worker `under_way_pid`, or deleted from it, with their
    aim. `boot_id` names the boot of the machine to which the guard's times belong. `lost`: overrides and a freeze
    were lost, and no operator has acknowledged the loss yet. `unread_version`: the file is of this other version and
    stays as it is. Such a file may contain a freeze, so no change is made until an operator acknowledges it. This
    field is never written.
    """

    freeze: Freeze | None = None
    holds: tuple[Override, ...] = ()
    peaks: Mapping[str, tuple[tuple[float, int], ...]] = attrs.field(factory=dict)
    refills: Mapping[str, Refill] = attrs.field(factory=dict)
    boot_id: str = ""
    under_way: Mapping[str, str] = attrs.field(factory=dict)
    under_way_pid: int = 0
    lost: Lost | None = None
    unread_version: str | None = None

    def override_of(self, backend: str, address: Address | None) -> Override | None:
        """Return the override of the server with `address` in `backend`, releasing or not."""
        return next((hold for hold in self.holds if (hold.backend, hold.address) == (backend, address)), None)


def is_frozen(saved: SavedState, now: float) -> bool:
    """Return whether a freeze forbids changes at `now`, seconds of the wall clock."""
    return saved.freeze is not None and not saved.freeze.is_over(now)


def acknowledged(saved: SavedState) -> SavedState:
    """Return `saved` after an operator has acknowledged a lost or unreadable state file."""
    return attrs.evolve(saved, lost=None, unread_version=None)


def lost_words(lost: Lost) -> str:
    """Return the message about a damaged state file, and how to acknowledge it."""
    return (
        f"state file memory.json was damaged: overrides and a freeze are lost; the damaged file is {lost.file}; "
        "ask for the overrides again, then `hapsync thaw --acknowledge`"
    )


def with_override(saved: SavedState, hold: Override) -> SavedState:
    """Return `saved` with `hold` in the place of another override of the same backend and address."""
    others = without_override(saved, hold.backend, hold.address).holds
    holds = sorted((*others, hold), key=lambda one: (one.backend, one.address))
    return attrs.evolve(saved, holds=tuple(holds))


def without_override(saved: SavedState, backend: str, address: Address) -> SavedState:
    """Return `saved` without an override of the server; the same object where there is none."""
    if saved.override_of(backend, address) is None:
        return saved
    kept = tuple(hold for hold in saved.holds if (hold.backend, hold.address) != (backend, address))
    return attrs.evolve(saved, holds=kept)


def expired(saved: SavedState, now: float) -> SavedState:
    """Return `saved` as it is at `now`, seconds of the wall clock; the same object where no time is over.

    A freeze ends with its time; an override becomes `is_releasing` with the end of its time.
    """
    if saved.freeze is not None and saved.freeze.is_over(now):
        saved = attrs.evolve(saved, freeze=None)
    if any(hold.is_over(now) and not hold.is_releasing for hold in saved.holds):
        holds = (attrs.evolve(hold, is_releasing=hold.is_releasing or hold.is_over(now)) for hold in saved.holds)
        saved = attrs.evolve(saved, holds=tuple(holds))
    return saved


def state_to_json(saved: SavedState) -> str:
    """Return the text of the state file: one line of ASCII."""
    return to_file(attrs.evolve(saved, unread_version=None), VERSION, "memory")


def state_from_json(text: str) -> SavedState | None:
    """Return the state in `text`; None when the text is damaged, or of another version."""
    saved = from_file(text, VERSION, "memory", SavedState)
    return saved if saved is not None and _is_sound(saved) else None


def _is_sound(saved: SavedState) -> bool:
    """Return whether the values make sense; the checksum proves only the bytes."""
    times: list[float | None] = [time for peaks in saved.peaks.values() for time, _ in peaks]
    times += [time for refill in saved.refills.values() for time in (refill.since, refill.changed)]
    times += [time for hold in saved.holds for time in (hold.at, hold.until)]
    if saved.freeze is not None:
        times += [saved.freeze.at, saved.freeze.until]
    if saved.lost is not None:
        times.append(saved.lost.at)
    return all(time is None or math.isfinite(time) for time in times) and all(
        hold.admin is not AdminState.READY and _is_canonical(hold.address) for hold in saved.holds
    )


def _is_canonical(address: Address) -> bool:
    try:
        return canonical_host(address.host) == address.host and 1 <= address.port <= 65535  # noqa: PLR2004
    except ValueError:
        return False


def stopped_words(stopped: Reason, saved: SavedState) -> str:
    """Return why no change may be made, and who asked for it."""
    if stopped is Reason.OTHER_VERSION:
        return (
            f"{Reason.OTHER_VERSION.value}; it is of version {saved.unread_version}: "
            "start the hapsync that wrote it, or `hapsync thaw --acknowledge` goes on without its content"
        )
    freeze = saved.freeze
    if stopped is not Reason.FROZEN or freeze is None:
        return str(stopped.value)
    because = f": {freeze.reason}" if freeze.reason else ""
    return f"{stopped.value}, by {freeze.who}{because}; `hapsync thaw` ends it"
