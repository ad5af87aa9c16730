"""hapsync with precautions taken out, to show that it stops itself, and that the machine would notice if it did not.

`python -m tests.faults.broken PRECAUTION[,PRECAUTION...] HAPSYNC-ARGUMENTS...`
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve

from hapsync.agent import agent as loop, carry_out, file_text as paper, guard_state
from hapsync.cli import main as hapsync_main
from hapsync.haproxy import commands as runtime
from hapsync.haproxy.commands import Command
from hapsync.model import server as model
from hapsync.model.changes import Add, Change
from hapsync.plan import assessment, guard
from hapsync.plan.diff import Diff
from hapsync.plan.plan import Plan, make_plan


def without_guard() -> None:
    """What Consul says is done at once."""

    def believe(found: Diff, *_others: object) -> Diff:
        return found

    for module in (guard, assessment, paper):
        module.guard = believe  # type: ignore[attr-defined]


def without_hands() -> None:
    """What a person set aside is taken for hapsync's own."""
    model.Server.is_overridden = property(lambda _self: False)  # type: ignore[method-assign,assignment]


def without_idleness() -> None:
    """A slot in maint is free, whatever runs on it."""
    model.Server.is_idle = property(lambda self: self.admin is model.AdminState.MAINT)  # type: ignore[method-assign,assignment]


def without_freeze() -> None:
    """A freeze is noted, and nothing else."""
    guard_state.is_frozen = lambda *_: False  # type: ignore[attr-defined]


def without_halt() -> None:
    """A freeze stops the passes, but no reload."""
    grow_at = loop.Agent._grow_at

    def as_if_thawed(agent: loop.Agent) -> float | None:
        saved = agent._guard_state.saved
        agent._guard_state.saved = evolve(saved, freeze=None)
        try:
            return grow_at(agent)
        finally:
            agent._guard_state.saved = saved

    loop.Agent._grow_at = as_if_thawed  # type: ignore[assignment, method-assign]
    loop.Agent._look_whether_stopped = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005


def without_aim() -> None:
    """Servers get the port beside the one that was meant."""

    def beside(changes: Iterable[Change], *agents: runtime.Agents) -> Sequence[tuple[Change, Command]]:
        found = []
        for change, command in runtime.address_commands(changes, *agents):
            head, word, port = command.line.rpartition(" port ")
            found.append((change, Command(f"{head}{word}{int(port) + 1}") if word else command))
        return found

    def all_arrived(changes: Sequence[Change], _observed: object) -> tuple[Sequence[Change], Sequence[Change]]:
        return changes, []

    module: Any = carry_out
    module.address_commands, module.arrived = beside, all_arrived


def without_floor() -> None:
    """Whatever the evidence allows leaves, however much that is."""
    guard._keep_capacity = lambda leaving, *_: (list(leaving), [])


def without_source() -> None:
    """The port beside the one that Consul gave is planned."""

    def beside(found: Diff, observed: model.Observed) -> Plan:
        plan = make_plan(found, observed)
        moved = (
            evolve(one, address=one.address._replace(port=one.address.port + 1)) if isinstance(one, Add) else one
            for one in plan.incoming
        )
        return evolve(plan, incoming=tuple(moved))

    assessment.make_plan = beside  # type: ignore[attr-defined]


def without_promises() -> None:
    """No promise is looked at before anything is sent, written or reloaded."""
    for module, name in (
        (assessment, "broken_by_plan"),
        (carry_out, "broken_by_commands"),
        (paper, "broken_by_target"),
    ):
        setattr(module, name, lambda *_: ())


PRECAUTIONS: Mapping[str, Callable[[], None]] = {
    "guard": without_guard,
    "hands": without_hands,
    "idleness": without_idleness,
    "freeze": without_freeze,
    "halt": without_halt,
    "aim": without_aim,
    "floor": without_floor,
    "source": without_source,
    "promises": without_promises,
}


if __name__ == "__main__":
    for precaution in sys.argv.pop(1).split(","):
        PRECAUTIONS[precaution]()
    hapsync_main()
