"""What hapsync keeps over its own restart: what people asked for, and what the guard has seen. To and from JSON.

Of HAProxy and Consul nothing is remembered here; both are read. Whoever holds the lock keeps it in a file.
"""

import math
from collections.abc import Mapping

import attrs

from hapsync.model.changes import Reason
from hapsync.model.json_file import from_file, to_file
from hapsync.model.server import Address, AdminState, canonical_host

VERSION = 1
"""Of the file; it changes when a field changes its meaning or goes. Who changes it reads the one before as well."""


@attrs.frozen
class Freeze:
    """A person asked that nothing be changed, `at` when, `until` when (None: until thawed).

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
    """A person asked that the server with `address` be in `admin`, which is MAINT or DRAIN.

    Times are seconds of the wall clock; `until` None is until released. It is the address that is held, for a server
    may be given another slot. `is_releasing`: released, or its time is over; the record stays until HAProxy
    shows the slot as ours again, so that a slot we took out is never mistaken for one a person took out by hand.
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
    dealt with, and is only remembered so that it does not begin again from the same reading. `own`: the addresses
    that the service had for itself, which another one may get meanwhile. Both times are
    seconds of the boot clock, which no one sets; they mean nothing after a reboot (`Memory.boot_id`).
    """

    was: int
    since: float
    changed: float
    serving: int
    is_over: bool = False
    own: tuple[Address, ...] = ()


@attrs.frozen
class Lost:
    """A damaged memory was found `at` (seconds of the wall clock) and kept as `file`: holds and a freeze are lost."""

    at: float
    file: str


@attrs.frozen
class SavedState:
    """All of it: `peaks` (boot clock seconds and servers, by backend) and `refills` (by backend) are the guard's.

    `under_way`: the whole backends that are being added to the worker `under_way_pid`, or deleted from it, with what
    they are to be.
    `boot_id` tells which boot of the machine the guard's times belong to.
    `lost`: what persons asked for before was lost, and no person has acknowledged that yet.
    `unread_version`: the file is of this other version and stays as it is; nothing may be changed, for it may hold a
    freeze, until a person acknowledges that as well. It is never written.
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
        """Return the hold on that server, releasing or not."""
        return next((hold for hold in self.holds if (hold.backend, hold.address) == (backend, address)), None)


def is_frozen(saved: SavedState, now: float) -> bool:
    """Whether nothing may be changed at `now`, seconds of the wall clock."""
    return saved.freeze is not None and not saved.freeze.is_over(now)


def acknowledged(saved: SavedState) -> SavedState:
    """Return `memory` after a person has acknowledged that what was asked for before is lost, or not understood."""
    return attrs.evolve(saved, lost=None, unread_version=None)


def lost_words(lost: Lost) -> str:
    """Return what a person should know of a damaged memory, and how to acknowledge it."""
    return (
        f"state file memory.json was damaged: overrides and a freeze are lost; the damaged file is {lost.file}; "
        "ask for the overrides again, then `hapsync thaw --acknowledge`"
    )


def with_override(saved: SavedState, hold: Override) -> SavedState:
    """Return `memory` with `hold`, which takes the place of another on the same backend and address."""
    others = without_override(saved, hold.backend, hold.address).holds
    holds = sorted((*others, hold), key=lambda one: (one.backend, one.address))
    return attrs.evolve(saved, holds=tuple(holds))


def without_override(saved: SavedState, backend: str, address: Address) -> SavedState:
    """Return `memory` without a hold on that server; the same memory where there is none."""
    if saved.override_of(backend, address) is None:
        return saved
    kept = tuple(hold for hold in saved.holds if (hold.backend, hold.address) != (backend, address))
    return attrs.evolve(saved, holds=kept)


def expired(saved: SavedState, now: float) -> SavedState:
    """Return `memory` as it is at `now`, seconds of the wall clock; the same memory where no time is over.

    A freeze whose time is over is gone, a hold whose time is over is releasing.
    """
    if saved.freeze is not None and saved.freeze.is_over(now):
        saved = attrs.evolve(saved, freeze=None)
    if any(hold.is_over(now) and not hold.is_releasing for hold in saved.holds):
        holds = (attrs.evolve(hold, is_releasing=hold.is_releasing or hold.is_over(now)) for hold in saved.holds)
        saved = attrs.evolve(saved, holds=tuple(holds))
    return saved


def state_to_json(saved: SavedState) -> str:
    """Return the text of the memory's file: one line of ASCII."""
    return to_file(attrs.evolve(saved, unread_version=None), VERSION, "memory")


def state_from_json(text: str) -> SavedState | None:
    """Return the memory in `text`; None when it is damaged in any way, or of another version."""
    saved = from_file(text, VERSION, "memory", SavedState)
    return saved if saved is not None and _is_sound(saved) else None


def _is_sound(saved: SavedState) -> bool:
    """Whether the values mean something; the checksum only says that they are those which were written."""
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
    """Return why nothing may be changed, and by whose word."""
    if stopped is Reason.OTHER_VERSION:
        return (
            f"{Reason.OTHER_VERSION.value}; it is of version {saved.unread_version}: "
            "start the hapsync that wrote it, or `hapsync thaw --acknowledge` goes on without what it says"
        )
    freeze = saved.freeze
    if stopped is not Reason.FROZEN or freeze is None:
        return str(stopped.value)
    because = f": {freeze.reason}" if freeze.reason else ""
    return f"{stopped.value}, by {freeze.who}{because}; `hapsync thaw` ends it"
