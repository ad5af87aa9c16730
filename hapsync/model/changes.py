"""Changes of servers, shortages and deferred changes, as values with their reasons."""

import enum

import attrs

from hapsync.model.catalog import Doubt
from hapsync.model.server import Address, AdminState, CheckStatus


class Reason(enum.Enum):
    """The reasons of changes and of deferrals: the state of the instance in Consul, or a fault of the slot."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "in maintenance"
    WEIGHT = "weight"
    GONE = "gone from Consul"
    OTHER_TAGS = "it has other tags in Consul"
    LEFT_OUT = "quarantined"
    AGENT = "its agent check"
    DUPLICATE = "its address is in another slot"
    OPERATOR = "asked for by an operator"
    RELEASED = "released by an operator"
    DRAINED = "its drain_seconds are over"
    CAPACITY_FIRST = "its replacement has no slot yet"
    CHECKED_FIRST = "its replacement is still being checked"
    SERVICE_GONE = "the whole service is gone from Consul"
    REFILLING = "the service was gone or Consul lost its state, and not all instances are back"
    MIN_READY = "fewer than min_ready would be left"
    MAX_LOSS = "more than max_loss_fraction would be lost within the window"
    OVERRIDDEN = "overridden by an operator"
    FLAPPING = "it comes and goes; damped until it stays"
    FROZEN = "everything is frozen"
    OBSERVING = "mode is observe"
    DEFECT = "a promise of hapsync would be broken, which is a defect"
    UNREAD = "HAProxy's answer about its backend cannot be read"
    OTHER_VERSION = "memory.json is of another version of hapsync, and may contain a freeze"
    NO_LEADER = Doubt.NO_LEADER.value
    STALE = Doubt.STALE.value
    FILTERED = Doubt.FILTERED.value
    UNCONFIRMED = Doubt.UNCONFIRMED.value
    AWAY = Doubt.AWAY.value
    SNAPSHOT = Doubt.SNAPSHOT.value
    FALLBACK = Doubt.FALLBACK.value


REASON_OF = {
    CheckStatus.PASSING: Reason.PASSING,
    CheckStatus.WARNING: Reason.WARNING,
    CheckStatus.CRITICAL: Reason.CRITICAL,
    CheckStatus.MAINTENANCE: Reason.MAINTENANCE,
}


@attrs.frozen
class Add:
    """Give a free slot this address and weight, then make it ready.

    `is_checked`, of every entry: the server is down, and gets no traffic, until HAProxy's own check of it has passed.
    `forgets`: the stick tables whose entries of the slot are cleared first, and the slot's number in them. The
    entries belong to clients of the slot's last instance. Even a slot at the placeholder may have entries, because
    tables can outlive a reload (`peers`).
    """

    backend: str
    server: str
    address: Address
    weight: int
    reason: Reason
    is_checked: bool = False
    forgets: tuple[tuple[str, int], ...] = ()


@attrs.frozen
class Create:
    """Add a dynamic server with this address, weight and `options`, then make it ready."""

    backend: str
    server: str
    address: Address
    weight: int
    options: str
    reason: Reason
    is_checked: bool = False


@attrs.frozen
class Enable:
    """Make a server that has the right address ready, with this weight.

    `options` are those of a dynamic server, else empty: hapsync may have been killed between the addition and the
    start of the checks.
    """

    backend: str
    server: str
    address: Address
    weight: int
    reason: Reason
    is_checked: bool = False
    options: str = ""


@attrs.frozen
class Reweigh:
    """Give a ready server this weight."""

    backend: str
    server: str
    address: Address
    weight: int
    was: int
    reason: Reason


@attrs.frozen
class Drain:
    """Put a server in drain: no new traffic, and checks go on; it keeps its slot."""

    backend: str
    server: str
    address: Address
    reason: Reason


@attrs.frozen
class Disable:
    """Put a server in maint whose instance is critical, but still in Consul, so it keeps its slot."""

    backend: str
    server: str
    address: Address
    reason: Reason


@attrs.frozen
class Remove:
    """Put a server in maint; its slot is free again once HAProxy shows no load on it."""

    backend: str
    server: str
    address: Address | None
    reason: Reason


@attrs.frozen
class Delete:
    """Delete a dynamic server in maint without load.

    `waits`: HAProxy first has to wait until the server may be deleted.
    """

    backend: str
    server: str
    address: Address | None
    waits: bool
    reason: Reason = Reason.GONE


@attrs.frozen
class EndSessions:
    """End the `sessions` that still run on a server in maint, whose instance is gone."""

    backend: str
    server: str
    address: Address | None
    sessions: int
    reason: Reason = Reason.DRAINED


@attrs.frozen
class SetOverride:
    """Put a server in maint or drain for an operator; the weight above 0 marks the override."""

    backend: str
    server: str
    address: Address
    admin: AdminState
    weight: int
    reason: Reason = Reason.OPERATOR


@attrs.frozen
class ClearOverride:
    """Turn an override into hapsync's own maint, by weight 0; the next plan decides anew."""

    backend: str
    server: str
    address: Address
    reason: Reason = Reason.RELEASED


@attrs.frozen
class SetAgent:
    """Switch a server's agent check on (`runs`), or off on a free slot, because an agent check can end a maint."""

    backend: str
    server: str
    address: Address | None
    runs: bool
    reason: Reason = Reason.AGENT


Entry = Add | Create | Enable
"""Changes that let an instance in."""
Change = Entry | Reweigh | Drain | Disable | Remove | Delete | EndSessions | SetOverride | ClearOverride | SetAgent


def takes_out(change: Change) -> bool:
    """Return whether `change` ends new traffic to the server because of the catalog."""
    match change:
        case Drain() | Disable() | Remove():
            return True
        case Reweigh(weight=weight, was=was):
            return weight == 0 and was > 0
        case Add() | Create() | Enable() | Delete() | EndSessions() | SetOverride() | ClearOverride() | SetAgent():
            return False


@attrs.frozen
class Shortage:
    """Addresses of a backend without a slot, of `wanted` addresses in all that should serve.

    `is_missing`: HAProxy does not have the backend yet; the addresses may then be empty.
    """

    backend: str
    addresses: tuple[Address, ...]
    wanted: int
    is_missing: bool = False


@attrs.frozen
class Deferred:
    """A due change that is not made, and why."""

    change: Change
    reason: Reason


@attrs.frozen
class Defect:
    """A mistake of hapsync's own: the decision for a backend would break this promise, and is not carried out."""

    backend: str
    promise: str
