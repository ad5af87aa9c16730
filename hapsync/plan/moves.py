"""Plan or target in, one `Case` for each backend out: the moves of its servers, in plain values for promises.py."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from functools import cached_property, lru_cache
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

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


class Move(NamedTuple):
    """One server: `before` as HAProxy shows it (None: a new server), and its state afterwards.

    `admin` is None for a deletion. `change` is the change of a plan; None for a move of a target. A named tuple is
    made in half the time of an attrs class, and a plan may have thousands of moves.
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
    def was_led(self) -> bool:
        """The agent check of the server runs, and may change it at any moment; a free slot does not count."""
        one = self.before
        return one is not None and one.agent & AGENT_RUNS == AGENT_RUNS and one.address != PLACEHOLDER

    @property
    def was_overridden(self) -> bool:
        """An operator put the server in maint or drain: its weight is above 0, and no running agent check set it."""
        one = self.before
        if one is None or one.admin is AdminState.READY or one.weight <= 0:
            return False
        return one.address not in (PLACEHOLDER, None) and not self.was_led

    @property
    def was_in_use(self) -> bool:
        """The server may have been in use: by HAProxy, an operator or an agent check.

        With an unread load, only a slot at the placeholder is known to have none.
        """
        one, load = self.before, self.before.load if self.before is not None else None
        if one is None or one.admin is not AdminState.MAINT:
            return one is not None
        if load is not None and (load.sessions or load.queued or load.used_connections or load.idle_connections):
            return True
        is_free = one.address is PLACEHOLDER or one.address == PLACEHOLDER
        return not is_free and (load is None or self.was_led or self.was_overridden)

    @property
    def serves(self) -> bool:
        """The server would get new traffic, by its state and weight."""
        return self.admin is AdminState.READY and self.weight > 0

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


@lru_cache(maxsize=65536)
def is_own(name: str) -> bool:
    """Return whether a server of this name is hapsync's."""
    return is_slot(name) or is_dynamic(name)


OF_OPERATOR = (SetOverride, ClearOverride)


@attrs.define
class Effects:
    """Some moves by their effect, each kind in its order.

    `entering` begin to get traffic, and `leaving` get less: no new traffic, or none. `given_away` get another address
    or are deleted. `overriding` concern an override: they set, end or break it. `is_out_before_in`: a server leaves
    before another one enters.
    """

    entering: list[Move] = attrs.Factory(list)
    leaving: list[Move] = attrs.Factory(list)
    given_away: list[Move] = attrs.Factory(list)
    overriding: list[Move] = attrs.Factory(list)
    is_out_before_in: bool = False


def _effects(moves: Iterable[Move]) -> Effects:
    """Sort `moves` in one turn, for a plan may have thousands."""
    found = Effects()
    for one in moves:
        _, was, address, admin, weight, change = one
        is_of_operator = isinstance(change, OF_OPERATOR)
        is_same = was is not None and (address is was.address or address == was.address)
        serves = admin is AdminState.READY and weight > 0
        if is_of_operator or one.was_overridden:
            found.overriding.append(one)
        if not is_same or admin is None:
            found.given_away.append(one)
        # A server with an agent check counts as let in before, in any state.
        if serves and not (is_same and was is not None and (was.admin is AdminState.READY or was.agent != 0)):
            found.entering.append(one)
            found.is_out_before_in = bool(found.leaving)
        # An operator's maint or drain is no loss.
        before = 0 if was is None or isinstance(change, SetOverride) else _level(was.admin, was.weight)
        if before and before > (_level(admin, weight) if is_same else 0):
            found.leaving.append(one)
    return found


@attrs.frozen
class Case:
    """One backend, the facts about it, and the moves of its servers, in their order.

    `reweighed` are the servers that get another weight above 0 and go on to serve, by name; that is no move.
    `wanted_if_short` is the number of servers that should serve where slots are short, else None. `is_new_worker`:
    the moves happen by the start of a HAProxy without load.
    """

    name: str
    want: DesiredBackend | None
    have: Backend
    overrides: Mapping[Address, AdminState | None]
    caution: Caution
    moves: Sequence[Move]
    reweighed: Mapping[str, int] = attrs.Factory(dict)
    is_stopped: bool = False
    wanted_if_short: int | None = None
    is_new_worker: bool = False

    @cached_property
    def given(self) -> AbstractSet[Address | None]:
        """The addresses that should serve, by Consul or by the fallback list."""
        servers = self.want.servers if self.want is not None else ()
        return {one.address for one in servers if one.admin is AdminState.READY}

    @cached_property
    def effects(self) -> Effects:
        """The moves by their effect."""
        return _effects(self.moves)

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
        moves = [one for one in self.effects.leaving if one.was_at not in self.overridden]
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
    def given_traffic(self) -> AbstractSet[Address | None]:
        """The addresses of servers that serve after a move, or with another weight."""
        reweighed = {one.address for one in self.have.slots if one.name in self.reweighed}
        return reweighed | {one.address for one in self.moves if one.serves}

    @cached_property
    def staying(self) -> AbstractSet[Address | None]:
        """The addresses of servers that do not leave, in drain or serving."""
        kept = {one.address for one in self.unmoved if one.admin is not AdminState.MAINT}
        leaving = {one.name for one in self.effects.leaving}
        return kept | {one.address for one in self.moves if not (one.is_out or one.name in leaving)}

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
    for name, some in groupby(plan.changes, attrgetter("backend")):
        changes.setdefault(name, []).extend(some)
    short = {one.backend: one.wanted for one in plan.shortages}
    is_stopped = facts.is_stopped if changes else False
    for name, due in changes.items():
        have = facts.observed.backends.get(name, Backend(name, exists=False))
        servers = {one.name: one for one in (*have.slots, *have.foreign)}
        moves, reweighed = [], {}
        for change in due:
            before = servers.get(change.server)
            if isinstance(change, Reweigh) and change.weight > 0 and before is not None and is_ready(before):
                reweighed[change.server] = change.weight
            else:
                moves.append(_move(change, before))
        yield _case(facts, have, moves, reweighed, is_stopped=is_stopped, wanted_if_short=short.get(name))


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
    reweighed: Mapping[str, int] = MappingProxyType({}),
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
        reweighed,
        is_stopped,
        wanted_if_short,
        is_new_worker,
    )


def _move(change: Change, before: Server | None) -> Move:
    admin, weight = (before.admin, before.weight) if before is not None else (AdminState.MAINT, 0)
    address = before.address if before is not None else None
    match change:
        case Reweigh():
            weight = change.weight
        case Add() | Create() | Enable():
            address, admin, weight = change.address, AdminState.READY, change.weight
        case Disable() | Remove():
            admin, weight = AdminState.MAINT, 0
        case Drain():
            admin, weight = AdminState.DRAIN, 0
        case SetOverride():
            admin, weight = change.admin, change.weight
        case ClearOverride():
            weight = 0
        case Delete():
            return Move(change.server, before, address, None, 0, change)
        case _:  # the end of sessions, or the switch of an agent check
            pass
    return Move(change.server, before, address, admin, weight, change)
