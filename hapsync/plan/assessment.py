"""The assessment of one reading of HAProxy: the plan, and whether HAProxy is in sync.

This module alone runs diff, guard and plan in their order, and gives the verdict.
"""

import enum
from collections.abc import Mapping, Sequence

import attrs

from hapsync.config.schema import Config
from hapsync.errors import Exit
from hapsync.model.catalog import NOT_TELLING
from hapsync.model.changes import Defect, Reason
from hapsync.model.overrides import SavedState
from hapsync.model.server import HAProxyProcess, Observed
from hapsync.plan.desired import Desired, namesake_words
from hapsync.plan.diff import Diff, diff
from hapsync.plan.guard import Cautions, guard
from hapsync.plan.judge import broken_by_plan
from hapsync.plan.moves import Facts
from hapsync.plan.plan import Plan, alarms, describe, describe_defect, describe_shortage, make_plan
from hapsync.plan.target import TargetState, target_now
from hapsync.text import quoted


@attrs.frozen
class Rules:
    """The conditions of a pass besides desired and observed: the guard's cautions, and whether changes are stopped.

    `stopped` is None, or the reason why no change may be made. `reads_first_checks`: newcomers' first checks are read
    even where no change depends on them, to know the capacity. `saved`, `mode` and `at_seconds` (of the wall clock)
    are the causes of `stopped`, for the promises.
    """

    cautions: Cautions = attrs.field(factory=dict)
    stopped: Reason | None = None
    reads_first_checks: bool = False
    saved: SavedState = attrs.field(factory=SavedState)
    mode: str = "active"
    at_seconds: float = 0.0

    def facts(self, desired: Desired, observed: Observed) -> Facts:
        """Return the facts for the promises, about the changes from `observed` to `desired`."""
        return Facts(desired, observed, self.cautions, self.saved, self.mode, self.at_seconds)


@attrs.frozen
class Assessment:
    """One reading of the worker `process`, the `desired` servers, the `rules` of the pass, and the resulting plan."""

    process: HAProxyProcess
    observed: Observed
    plan: Plan
    desired: Desired = attrs.field(factory=lambda: Desired({}))
    rules: Rules = attrs.field(factory=Rules)

    @property
    def target(self) -> TargetState:
        """The servers that a HAProxy started now should have, and so the content of the file."""
        return target_now(self.desired, self.observed, self.plan.deferred)


def guarded(observed: Observed, desired: Desired, cautions: Cautions, found: Diff | None = None) -> Diff:
    """Return the diff after the guard, with deferred changes; `found` is the diff before the guard, if known."""
    return guard(diff(desired, observed) if found is None else found, observed, desired, cautions)


def assess(
    process: HAProxyProcess, observed: Observed, desired: Desired, rules: Rules, found: Diff | None = None
) -> Assessment:
    """Return the assessment of `observed` against `desired`; `found` is their diff before the guard, if known."""
    plan = make_plan(guarded(observed, desired, rules.cautions, found), observed)
    if rules.stopped is not None:
        plan = plan.stopped(rules.stopped)
    plan = plan.without(broken_by_plan(plan, rules.facts(desired, observed)))
    return Assessment(process, observed, plan, desired, rules)


class Verdict(enum.Enum):
    """The answer whether HAProxy is in sync; the values are the exit codes of the commands."""

    IN_SYNC = Exit.DONE
    CANNOT_TELL = Exit.CANNOT_TELL
    OUT_OF_SYNC = Exit.NOT_DONE


@attrs.frozen
class Judgement:
    """The reasons why HAProxy is not in sync, and why its state is unknown, a line each.

    `due` are the changes still to make, and `worrying` the conditions for an operator to look at although no change
    is due.
    """

    due: tuple[str, ...] = ()
    worrying: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict; it is unknown while any part of the state is unknown."""
        if self.unknown:
            return Verdict.CANNOT_TELL
        return Verdict.OUT_OF_SYNC if self.due or self.worrying else Verdict.IN_SYNC


def judge(config: Config, seen: Assessment) -> Judgement:
    """Return the judgement of `seen`, the assessment of the backends in `config`."""
    plan, is_stopped = seen.plan, seen.rules.stopped is not None
    changes = [
        *plan.changes,
        *(one.change for one in plan.deferred if is_stopped and one.reason is seen.rules.stopped),
    ]
    waits = [*plan.waiting, *(one for one in plan.deferred if is_stopped and one.reason is Reason.CAPACITY_FIRST)]
    return Judgement(
        (
            *(f"due: {_line(describe(change))}" for change in changes),
            *(f"waits: {_line(describe(deferred.change))}" for deferred in waits),
            *(_line(describe_shortage(shortage)) for shortage in plan.shortages),
        ),
        (
            *map(defect_line, plan.defects),
            *alarms(plan),
            *unserved(seen.desired, seen.observed),
            *_misnamed(config, seen.desired),
        ),
        (*unread_lines(seen.observed), *untold(config, seen.desired)),
    )


def defect_line(defect: Defect) -> str:
    """Return one line about `defect` for operators."""
    return f"a defect of hapsync, please report it; {describe_defect(defect)}"


def untold(config: Config, desired: Desired, errors: Mapping[str, str] | None = None) -> Sequence[str]:
    """Return why Consul's state is unknown for backends in `config`, a line each.

    `errors` has the reason of each service that was not read, as far as known.
    """
    names = sorted(config.backends)
    services = {name: config.backends[name].service for name in names}
    lines = []
    for name in names:
        if name not in desired.backends:
            why = f": {errors.get(services[name], 'no answer yet')}" if errors is not None else ""
            lines.append(f"service {quoted(services[name])} was not read yet{why}")
    for name, want in desired.backends.items():
        if want.doubt is not None and want.doubt in NOT_TELLING:
            lines.append(f"service {quoted(services[name])}: {want.doubt.value}")
    return lines


def _misnamed(config: Config, desired: Desired) -> Sequence[str]:
    return [
        namesake_words(config.backends[name].service, want.namesakes)
        for name, want in desired.backends.items()
        if want.is_gone and want.namesakes
    ]


def _line(text: str) -> str:
    return " ".join(text.split())


def unread_lines(observed: Observed) -> list[str]:
    """Return which backends of HAProxy could not be read, and why, a line each."""
    return [f"backend {name} cannot be read: {why}" for name, why in sorted(observed.unread.items())]


def unserved(wanted: Desired, observed: Observed) -> list[str]:
    """Return the backends without a serving server although Consul has some: operators or agent checks took all out.

    Overrides by `hapsync hold` or `drain` are intended, so their servers do not count.
    """
    lines = []
    for name, want in sorted(wanted.backends.items()):
        have = observed.backends.get(name)
        if have is None or any(one.can_serve for one in (*have.slots, *have.foreign)):
            continue
        overrides = wanted.overrides.get(name, {})
        due = {one.address for one in want.servers if one.needs_slot and one.weight > 0} - set(overrides)
        out = [slot for slot in have.slots if slot.address in due]
        overridden = [slot.name for slot in out if slot.is_overridden]
        by_agent = [slot.name for slot in out if slot.is_led_by_agent and slot.weight > 0]
        if overridden:
            lines.append(
                f"backend {name} has no server that can serve: {', '.join(overridden[:5])} in maint or drain by an "
                f"operator; if that was not meant, `hapsync release {name}/{overridden[0]}` and so on hands them "
                "to hapsync"
            )
        elif by_agent:
            lines.append(
                f"backend {name} has no server that can serve: the agents of {', '.join(by_agent[:5])} took them out"
            )
    return lines
