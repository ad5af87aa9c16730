"""Plan or target in, one `Case` for each backend out: the moves of its servers, in plain values for promises.py."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from functools import cached_property, lru_cache

import attrs

from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Create,
    Delete,
    Disable,
    Drain,
    Enable,
    Remove,
    Reweigh,
    SetOverride,
)
from hapsync.model.overrides import SavedState
from hapsync.model.server import (
    AGENT_RUNS,
    DYNAMIC_NAME,
    PLACEHOLDER,
    SLOT_NAME,
    Address,
    AdminState,
    Backend,
    FirstCheck,
    Observed,
    Server,
)
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.guard import Caution, Cautions
from hapsync.plan.plan import Plan
from hapsync.plan.target import TargetState


@attrs.frozen
class Facts:
    """The facts at the moment before changes are made.

    `saved` holds the operators' requests, and `mode` is `agent.mode`; `now_seconds` is of the wall clock.
    """

    desired: Desired
    observed: Observed
    cautions: Cautions = attrs.field(factory=dict)
    saved: SavedState = attrs.field(factory=SavedState)
    mode: str = "active"
    now_seconds: float = 0.0

    @property
    def is_stopped(self) -> bool:
        """No change may be made: by a freeze, in the mode `observe`, or with a state file of another version."""
        freeze = self.saved.freeze
        is_frozen = freeze is not None and (freeze.until is None or self.now_seconds < freeze.until)
        return is_frozen or self.mode == "observe" or self.saved.unread_version is not None


@attrs.frozen
class Move:
    """One server: `before` as HAProxy shows it (None: a new server), and its state afterwards.

    `admin` is None for a deletion. `change` is the change of a plan; None for a move of a target.
    """

    name: str
    before: Server | None
    address: Address | None
    admin: AdminState | None
    weight: int
    change: Change | None = None

    @property
    def was_at(self) -> Address | None:
        return self.before.address if self.before is not None else None

    @property
    def was_in(self) -> bool:
        """The server was let in at this address before; a server with an agent check counts in any state."""
        one = self.before
        return one is not None and one.address == self.address and (one.admin is AdminState.READY or one.agent != 0)

    @property
    def was_led(self) -> bool:
        """The agent check of the server runs, and may change it at any moment; a free slot does not count."""
        one = self.before
        return one is not None and one.agent & AGENT_RUNS == AGENT_RUNS and one.address != PLACEHOLDER

    @property
    def was_overridden(self) -> bool:
        """An operator put the server in maint or drain: its weight is above 0, and no running agent check set it."""
        one = self.before
        is_out = one is not None and one.admin is not AdminState.READY and one.weight > 0
        return is_out and self.was_at not in (None, PLACEHOLDER) and not self.was_led

    @property
    def was_quiet(self) -> bool:
        """The server had no load; with an unread load, only a server at the placeholder is known to have none."""
        load = self.before.load if self.before is not None else None
        if load is None:
            return self.was_at == PLACEHOLDER
        return not (load.sessions or load.queued or load.used_connections or load.idle_connections)

    @property
    def serves(self) -> bool:
        """The server would get new traffic, by its state and weight."""
        return self.admin is AdminState.READY and self.weight > 0

    @property
    def is_leaving(self) -> bool:
        """The address would get less traffic: no new traffic, or none. A `SetOverride` does not count."""
        was = self.before
        if was is None or isinstance(self.change, SetOverride):
            return False
        is_same = self.address is was.address or self.address == was.address
        if is_same and self.weight > 0 and self.admin is AdminState.READY:
            return False  # the usual case, first
        return (_level(self.admin, self.weight) if is_same else 0) < _level(was.admin, was.weight)

    @property
    def is_out(self) -> bool:
        """The server would not serve its last address any more: in maint, deleted, or at another address."""
        return self.admin in (None, AdminState.MAINT) or self.address != self.was_at


def _level(admin: AdminState | None, weight: int) -> int:
    return 0 if admin in (None, AdminState.MAINT) else 2 if admin is AdminState.READY and weight > 0 else 1


def is_ready(server: Server) -> bool:
    """Return whether HAProxy may send new traffic to `server` while its checks pass."""
    return server.admin is AdminState.READY and server.weight > 0


@lru_cache(maxsize=65536)
def is_slot(name: str) -> bool:
    """Return whether a server of this name is a slot."""
    return SLOT_NAME.fullmatch(name) is not None


@lru_cache(maxsize=65536)
def is_dynamic(name: str) -> bool:
    """Return whether a server of this name was added live."""
    return DYNAMIC_NAME.fullmatch(name) is not None


@attrs.frozen
class Case:
    """One backend, the facts about it, and the moves of its servers, in their order.

    `wanted_if_short` is the number of servers that should serve where slots are short, else None. `is_new_worker`:
    the moves happen by the start of a HAProxy without load.
    """

    name: str
    want: DesiredBackend | None
    have: Backend
    overrides: Mapping[Address, AdminState | None]
    caution: Caution
    moves: Sequence[Move]
    is_stopped: bool = False
    wanted_if_short: int | None = None
    is_new_worker: bool = False

    @cached_property
    def given(self) -> AbstractSet[Address | None]:
        """The addresses that should serve, by Consul or by the fallback list."""
        servers = self.want.servers if self.want is not None else ()
        return {one.address for one in servers if one.admin is AdminState.READY}

    @cached_property
    def entering(self) -> Sequence[Move]:
        """The servers that would begin to get traffic."""
        return [one for one in self.moves if one.serves and not one.was_in]

    @cached_property
    def is_out_before_in(self) -> bool:
        """A server leaves before another one is let in."""
        last_in = max((at for at, one in enumerate(self.moves) if one.serves and not one.was_in), default=0)
        return any(one.is_leaving for one in self.moves[:last_in])

    @cached_property
    def listed(self) -> AbstractSet[Address | None]:
        """The addresses of all desired servers, serving or not."""
        return {one.address for one in self.want.servers} if self.want is not None else set()

    @cached_property
    def twice(self) -> AbstractSet[Address | None]:
        """The addresses that two servers have."""
        counts = Counter(one.address for one in self.have.slots)
        return {address for address, count in counts.items() if count > 1}

    @cached_property
    def leaving(self) -> Sequence[Move]:
        """The leaving servers without those of operators; of a new worker's losses only servers that are up."""
        moves = [one for one in self.moves if one.is_leaving and one.was_at not in self.overridden]
        return [one for one in moves if not self.is_new_worker or (one.before is not None and one.before.is_up)]

    @cached_property
    def overridden(self) -> AbstractSet[Address | None]:
        """The addresses that operators asked to be in maint or drain."""
        return {address for address, admin in self.overrides.items() if admin is not None}

    @cached_property
    def up(self) -> AbstractSet[Address | None]:
        """The addresses to which HAProxy sends now."""
        return {one.address for one in self.have.slots if one.is_up and is_ready(one)}

    @cached_property
    def capacity(self) -> AbstractSet[Address | None]:
        """The addresses to which HAProxy sends now, with a passed first check."""
        slots = (one for one in self.have.slots if one.first_check is FirstCheck.PASSED)
        return {one.address for one in slots if one.is_up and is_ready(one)}

    @cached_property
    def unmoved(self) -> Sequence[Server]:
        """The servers that stay as they are."""
        moved = {one.name for one in self.moves}
        return [one for one in self.have.slots if one.name not in moved]

    @cached_property
    def serving(self) -> AbstractSet[Address | None]:
        """The addresses to which HAProxy can send afterwards, before any further check."""
        kept = {one.address for one in self.unmoved if one.is_up and is_ready(one)}
        return kept | {one.address for one in self.moves if one.serves and self._is_up(one)}

    @cached_property
    def staying(self) -> AbstractSet[Address | None]:
        """The addresses of servers that do not leave, in drain or serving."""
        kept = {one.address for one in self.unmoved if one.admin is not AdminState.MAINT}
        return kept | {one.address for one in self.moves if not (one.is_out or one.is_leaving)}

    def count_ready(self) -> tuple[int, int]:
        """Return the number of servers that may get new traffic, before and after.

        The first number omits servers that an operator takes out, the second one servers before their first check.
        """
        overridden = {one.name for one in self.moves if isinstance(one.change, SetOverride)}
        before = sum(is_ready(one) and one.name not in overridden for one in self.have.slots)
        coming = sum(one.serves and not getattr(one.change, "is_checked", False) for one in self.moves)
        return before, sum(map(is_ready, self.unmoved)) + coming

    def _is_up(self, move: Move) -> bool:
        if isinstance(move.change, Add | Create | Enable):
            return not move.change.is_checked
        return self.is_new_worker or (move.before is not None and move.before.is_up)


def plan_cases(plan: Plan, facts: Facts) -> Iterator[Case]:
    """Yield the backends that `plan` changes."""
    changes: dict[str, list[Change]] = {}
    for change in plan.changes:
        changes.setdefault(change.backend, []).append(change)
    short = {one.backend: one.wanted for one in plan.shortages}
    is_stopped = facts.is_stopped if changes else False
    for name, some in changes.items():
        have = facts.observed.backends.get(name, Backend(name, exists=False))
        named = {one.server for one in some}
        servers = {one.name: one for one in (*have.slots, *have.foreign) if one.name in named}
        moves = [_move(one, servers.get(one.server)) for one in some]
        yield _case(facts, have, moves, is_stopped=is_stopped, wanted_if_short=short.get(name))


def target_cases(target: TargetState, facts: Facts) -> Iterator[Case]:
    """Yield all backends of `target`, with the moves from the observed servers to a HAProxy started with it."""
    is_stopped = facts.is_stopped
    for name, later in target.backends.items():
        have = facts.observed.backends.get(name, Backend(name, exists=False))
        left = {one.name: one for one in have.slots}
        moves = []
        for one in later.slots:
            before = left.pop(one.name, None)
            if before is None or (before.address, before.admin, before.weight) != (
                one.address,
                one.admin,
                one.weight,
            ):
                moves.append(Move(one.name, before, one.address, one.admin, one.weight))
        moves += [Move(one.name, one, one.address, None, 0) for one in left.values()]
        yield _case(facts, have, moves, is_stopped=is_stopped, is_new_worker=True)


def _case(
    facts: Facts,
    have: Backend,
    moves: Sequence[Move],
    *,
    is_stopped: bool,
    wanted_if_short: int | None = None,
    is_new_worker: bool = False,
) -> Case:
    return Case(
        have.name,
        facts.desired.backends.get(have.name),
        have,
        facts.desired.overrides.get(have.name, {}),
        facts.cautions.get(have.name) or Caution(),
        moves,
        is_stopped,
        wanted_if_short,
        is_new_worker,
    )


def _move(change: Change, before: Server | None) -> Move:
    admin, weight = (before.admin, before.weight) if before is not None else (AdminState.MAINT, 0)
    address = before.address if before is not None else None
    match change:
        case Add() | Create() | Enable():
            return Move(change.server, before, change.address, AdminState.READY, change.weight, change)
        case Reweigh():
            weight = change.weight
        case Drain():
            admin, weight = AdminState.DRAIN, 0
        case Disable() | Remove():
            admin, weight = AdminState.MAINT, 0
        case SetOverride():
            admin, weight = change.admin, change.weight
        case ClearOverride():
            weight = 0
        case Delete():
            return Move(change.server, before, address, None, 0, change)
        case _:  # the end of sessions, or the switch of an agent check
            pass
    return Move(change.server, before, address, admin, weight, change)
