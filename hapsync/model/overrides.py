"""The state that hapsync keeps over its own restart: overrides, a freeze, and the guard's records. To and from JSON.

Of HAProxy and Consul nothing is remembered here; both are read. The holder of the lock keeps it in a file.
"""

import math
from collections.abc import Mapping

import attrs

from hapsync.model.changes import Reason
from hapsync.model.json_file import from_file, to_file
from hapsync.model.server import Address, AdminState, canonical_host

VERSION = 1
"""Of the file; it changes when a field changes its meaning or goes. A new version reads the one before as well."""


@attrs.frozen
class Freeze:
    """An operator's freeze of all changes, `at` when, `until` when (None: until thawed).

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

    Times are seconds of the wall clock; `until` None is until released. The override is of the address, for a server
    may be given another slot. `is_releasing`: released, or its time is over. The record stays until HAProxy shows the
    slot as ours again, so our own maint is never taken for an operator's.
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
    """How a backend that lost its servers all at once comes back.

    `was`: how many served before; `serving`: how many do, as of `changed`; `since`: when it began; `is_over`: it was
    dealt with, and is only remembered so that it does not begin again from the same reading. `own`: the addresses of
    this service alone, before another one may get them. Both times are seconds of the boot clock, which no one sets;
    they mean nothing after a reboot (`SavedState.boot_id`).
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
    """All of it: `peaks` (boot clock seconds and servers, by backend) and `refills` (by backend) are the guard's.

    `under_way`: the whole backends that are being added to the worker `under_way_pid`, or deleted from it, with what
    they are to be. `boot_id` tells which boot of the machine the guard's times belong to. `lost`: overrides and a
    freeze were lost, and no operator has acknowledged it yet. `unread_version`: the file is of this other version and
    stays as it is. It may contain a freeze, so nothing may be changed until an operator acknowledges it. It is never
    written.
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
        """Return the override of that server, releasing or not."""
        return next((hold for hold in self.holds if (hold.backend, hold.address) == (backend, address)), None)


def is_frozen(saved: SavedState, now: float) -> bool:
    """Whether nothing may be changed at `now`, seconds of the wall clock."""
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

    A freeze whose time is over is gone, a hold whose time is over is releasing.
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
    """Return the state in `text`; None when it is damaged in any way, or of another version."""
    saved = from_file(text, VERSION, "memory", SavedState)
    return saved if saved is not None and _is_sound(saved) else None


def _is_sound(saved: SavedState) -> bool:
    """Whether the values mean something; the checksum proves only the bytes."""
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
    """Return why nothing may be changed, and on whose request."""
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
