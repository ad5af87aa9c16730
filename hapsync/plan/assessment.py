"""What one reading of HAProxy asks for, and whether HAProxy is in sync by it.

The only place where desired, observed, diff, guard and plan follow each other, and the only verdict.
"""

import enum
from collections.abc import Mapping, Sequence

import attrs

from hapsync.config.schema import Config
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
    """What a pass has to heed besides the two snapshots: what the guard knows, and whether anything may be done.

    `stopped` is None, or why nothing may be. `reads_first_checks`: also read whether newcomers' first checks have
    passed where nothing depends on it yet, to know the capacity there is. `saved`, `mode` and `at_seconds` (of the
    wall clock) are what `stopped` was made of: the promises are judged by them.
    """

    cautions: Cautions = attrs.field(factory=dict)
    stopped: Reason | None = None
    reads_first_checks: bool = False
    saved: SavedState = attrs.field(factory=SavedState)
    mode: str = "active"
    at_seconds: float = 0.0

    def facts(self, desired: Desired, observed: Observed) -> Facts:
        """Return what the promises are judged by where `observed` is to become what is `desired`."""
        return Facts(desired, observed, self.cautions, self.saved, self.mode, self.at_seconds)


@attrs.frozen
class Assessment:
    """One reading of the worker `process`, what is `desired` of it under which `rules`, and the plan to get there."""

    process: HAProxyProcess
    observed: Observed
    plan: Plan
    desired: Desired = attrs.field(factory=lambda: Desired({}))
    rules: Rules = attrs.field(factory=Rules)

    @property
    def target(self) -> TargetState:
        """What a HAProxy started now should be, and so what the file should say."""
        return target_now(self.desired, self.observed, self.plan.deferred)


def guarded(observed: Observed, desired: Desired, cautions: Cautions, found: Diff | None = None) -> Diff:
    """Return what of the difference may be made, and what the guard defers; `found` is the difference, if known."""
    return guard(diff(desired, observed) if found is None else found, observed, desired, cautions)


def assess(
    process: HAProxyProcess, observed: Observed, desired: Desired, rules: Rules, found: Diff | None = None
) -> Assessment:
    """Return what `desired` asks of `observed`; `found` is their difference where it is known already."""
    plan = make_plan(guarded(observed, desired, rules.cautions, found), observed)
    if rules.stopped is not None:
        plan = plan.stopped(rules.stopped)
    plan = plan.without(broken_by_plan(plan, rules.facts(desired, observed)))
    return Assessment(process, observed, plan, desired, rules)


class Verdict(enum.Enum):
    """Whether HAProxy is as Consul says; the values are the exit codes of the commands."""

    IN_SYNC = 0
    CANNOT_TELL = 1
    OUT_OF_SYNC = 2


@attrs.frozen
class Judgement:
    """Why HAProxy is not in sync, and why nobody can tell, a line each.

    `due` is what the plan has still to do, `worrying` what keeps a person from being content although nothing is due.
    """

    due: tuple[str, ...] = ()
    worrying: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Nothing is said to be in sync or not while a part of it is unknown."""
        if self.unknown:
            return Verdict.CANNOT_TELL
        return Verdict.OUT_OF_SYNC if self.due or self.worrying else Verdict.IN_SYNC


def judge(config: Config, seen: Assessment) -> Judgement:
    """Return what `seen`, a reading of the backends in `config`, says of HAProxy."""
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
    """Return why it cannot be told what Consul says of the backends in `config`, a line each.

    `errors` has for each service that was not read why, where that is known.
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
    """Return the backends that send to nobody although Consul has servers for them, for hands or agents took all out.

    What somebody holds with `hapsync hold` or `drain` is known to be wanted, and is not counted.
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
