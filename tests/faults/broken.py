"""hapsync with one of its precautions taken out, to show that the machine would notice.

`python -m tests.faults.broken PRECAUTION HAPSYNC-ARGUMENTS...`
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hapsync.agent import agent as loop, carry_out, config_file as paper, guard_state
from hapsync.cli import main as hapsync_main
from hapsync.haproxy import commands as runtime
from hapsync.haproxy.commands import Command
from hapsync.model import server as model
from hapsync.model.changes import Change
from hapsync.plan import assessment, guard
from hapsync.plan.diff import Diff


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


PRECAUTIONS: Mapping[str, Callable[[], None]] = {
    "guard": without_guard,
    "hands": without_hands,
    "idleness": without_idleness,
    "freeze": without_freeze,
    "halt": without_halt,
    "aim": without_aim,
}


if __name__ == "__main__":
    PRECAUTIONS[sys.argv.pop(1)]()
    hapsync_main()
