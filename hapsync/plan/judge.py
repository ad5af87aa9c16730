"""The judge of plans, targets and commands by the promises of promises.py; a broken promise is a `Defect`."""

from collections.abc import Callable, Iterable

from hapsync.model.changes import Change, Defect
from hapsync.plan.moves import Case, Facts, plan_cases, target_cases
from hapsync.plan.plan import Plan
from hapsync.plan.promises import PROMISES, command_says_its_change
from hapsync.plan.target import TargetState


def sentence_of(promise: Callable[..., object]) -> str:
    """Return the sentence of a promise."""
    return promise.__doc__ or promise.__name__


def broken_by_plan(plan: Plan, facts: Facts) -> tuple[Defect, ...]:
    """Return the promises that `plan` would break, each with its backend."""
    return _broken(plan_cases(plan, facts)) if plan.changes else ()


def broken_by_target(target: TargetState, facts: Facts) -> tuple[Defect, ...]:
    """Return the promises that a HAProxy started with `target` would break, each with its backend."""
    return _broken(target_cases(target, facts))


def broken_by_commands(commands: Iterable[tuple[Change, str]]) -> tuple[Defect, ...]:
    """Return the promises that `commands`, pairs of a change and its line, would break, each with its backend."""
    names = {change.backend: None for change, line in commands if not command_says_its_change(change, line)}
    return tuple(Defect(name, sentence_of(command_says_its_change)) for name in names)


def _broken(cases: Iterable[Case]) -> tuple[Defect, ...]:
    return tuple(Defect(case.name, sentence_of(one)) for case in cases for one in PROMISES if not one(case))
