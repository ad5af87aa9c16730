"""A backend over time, without processes: Consul's readings and HAProxy's checks as they come, hapsync's real guard.

Time is a number, HAProxy is what obeys commands (`strategies.obeyed`), and the memory's file is a variable. Each plan
is asked for the promises of the page before production would drop what breaks one: by what the guard remembers, as
production does, and by what was seen here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import attrs

from hapsync.agent import guard_state as safety_module
from hapsync.agent.guard_state import GuardState
from hapsync.config.schema import BackendConfig, Config
from hapsync.model.catalog import Catalog, Doubt, Instance, Reading
from hapsync.model.changes import Change
from hapsync.model.overrides import SavedState
from hapsync.model.server import Address, AdminState, Backend, CheckStatus, FirstCheck, Observed, Server
from hapsync.plan.desired import Desired, desired
from hapsync.plan.diff import diff
from hapsync.plan.guard import Caution, guard
from hapsync.plan.judge import broken_by_plan
from hapsync.plan.moves import Facts, plan_cases
from hapsync.plan.plan import Plan, make_plan
from hapsync.plan.simulate import FREE_SLOT
from tests.strategies import applied

FLEET = tuple(Address(f"10.0.0.{number}", 80) for number in range(1, 9))
SLOTS = 14
Numbers = Iterable[int]


def reading(
    passing: Numbers, critical: Numbers = (), doubt: Doubt | None = None, *, is_backwards: bool = False
) -> Reading:
    """Return a reading with these of the fleet."""
    found = dict.fromkeys(critical, CheckStatus.CRITICAL) | dict.fromkeys(passing, CheckStatus.PASSING)
    instances = tuple(
        Instance(f"n{number}", f"web-{number}", FLEET[number], status) for number, status in sorted(found.items())
    )
    return Reading("web", instances, doubt=doubt, is_backwards=is_backwards)


@attrs.define
class Refilling:
    """A service that vanished or went back: how many served, how many should by now and since when."""

    was: int
    serving: int
    changed: float
    is_over: bool = False


@attrs.define
class Simulation:
    """One backend, `web`, and all that happened to it."""

    config: BackendConfig
    said: Reading = attrs.field(factory=lambda: reading(range(4)))
    dead: frozenset[int] = frozenset()
    now: float = 1000.0
    slots: tuple[Server, ...] = tuple(attrs.evolve(FREE_SLOT, name=f"srv{number}") for number in range(1, SLOTS + 1))
    done: list[tuple[float, Change]] = attrs.field(factory=list)
    capacities: list[tuple[float, int]] = attrs.field(factory=list)
    refilling: Refilling | None = None
    _is_released: bool = False
    _kept: int = 0
    _file: SavedState = attrs.field(factory=SavedState)
    _guard_state: GuardState = attrs.field(init=False)

    @contextmanager
    def running(self) -> Iterator["Simulation"]:
        with (
            patch.object(safety_module, "_boot_seconds", lambda: self.now),
            patch.object(safety_module, "_read_boot_id", lambda: "boot"),
            patch.object(safety_module, "save_state", self._save),
        ):
            self._guard_state = GuardState(self._whole_config, self._file)
            self.passes()
            self.after(30)
            yield self

    def _save(self, _config: Config, saved: SavedState, *, durable: bool = True) -> None:  # noqa: ARG002
        self._file = saved

    @property
    def _whole_config(self) -> Config:
        return Config(backends={"web": self.config})

    # -- what happens -----------------------------------------------------------------------------------------

    def after(self, seconds: float) -> None:
        """Let time go by, HAProxy check its servers, and hapsync make its passes."""
        self.now += seconds
        self._check(seconds)
        self.passes()

    def _check(self, seconds: float) -> None:
        def checked(slot: Server) -> Server:
            if slot.admin is AdminState.MAINT:
                return slot
            if slot.address in {FLEET[number] for number in self.dead}:
                return attrs.evolve(slot, is_up=False, first_check=FirstCheck.MISSING)
            return attrs.evolve(slot, is_up=True, first_check=FirstCheck.PASSED if seconds >= 1 else slot.first_check)

        self.slots = tuple(map(checked, self.slots))

    def release(self) -> None:
        self._is_released = True

    def restart(self) -> None:
        """Hapsync is stopped and started."""
        self._guard_state.save()
        self._kept = len(self.capacities)
        self.kill()

    def kill(self) -> None:
        """Hapsync is killed and started: it must know of what there was before it last took anything out."""
        self._guard_state = GuardState(self._whole_config, self._file)
        del self.capacities[self._kept :]

    # -- what hapsync does ------------------------------------------------------------------------------------

    @property
    def observed(self) -> Observed:
        return Observed({"web": Backend("web", self.slots)})

    @property
    def wanted(self) -> Desired:
        return desired(Catalog({"web": self.said}), self._whole_config)

    def passes(self) -> None:
        for _ in range(3):
            if not self._pass():
                return

    def _pass(self) -> bool:
        """Make one pass as the worker does; return whether it changed anything."""
        wanted, observed = self.wanted, self.observed
        with self._guard_state.releasing(["web"] if self._is_released else []):
            rules = self._guard_state.rules(wanted, ["web"])
            plan = make_plan(guard(diff(wanted, observed), observed, wanted, rules.cautions), observed)
            self._note(observed, wanted)
            if plan.outgoing:
                self._guard_state.before_leaving(wanted, observed)
            assert broken_by_plan(plan, rules.facts(wanted, observed)) == (), f"at {self.now}: a defect"
            self._look_at(plan, Facts(wanted, observed, {"web": self._seen()}))
            later = applied(observed, plan)
            self.slots = later.backends["web"].slots
            self.done += [(self.now, change) for change in plan.changes]
            self._guard_state.note(wanted, later)
            self._note(later, wanted)
        self.capacities.append((self.now, len(sure(later))))
        if self._is_released:
            self._is_released, self.refilling = False, None
            self.capacities, self._kept = [], 0
        return bool(plan.changes)

    # -- what must hold ---------------------------------------------------------------------------------------

    def _note(self, observed: Observed, wanted: Desired) -> None:
        self.capacities.append((self.now, len(sure(observed))))
        want = wanted.backends["web"]
        ready = len({slot.address for slot in observed.backends["web"].ready})
        known = self.refilling
        if known is not None and known.is_over and not want.is_backwards:
            known = None
        if known is None and ready and (not want.servers or want.is_backwards):
            known = Refilling(max(ready, len(sure(observed))), want.serving, self.now)
        if known is not None:
            if known.serving != want.serving:
                known.serving, known.changed = want.serving, self.now
            lives = min(known.was, max(1, len(sure(observed))))
            is_most = want.serving >= round(lives * (1 - self.config.max_loss_fraction), 6) and want.serving > 0
            is_quiet = self.now - known.changed >= self.config.guard_window_seconds
            known.is_over = known.is_over or known.serving >= known.was or (is_most and is_quiet)
        self.refilling = known

    def _seen(self) -> Caution:
        """What the guard should know, by all that was seen."""
        config, is_over = self.config, self.refilling is None or self.refilling.is_over
        return Caution(
            max_loss_fraction=config.max_loss_fraction,
            min_ready=config.min_ready,
            peak=max(amount for at, amount in self.capacities if at >= self.now - config.guard_window_seconds),
            is_refilling=not is_over,
            has_refilled=is_over,
            is_released=self._is_released,
        )

    def _look_at(self, plan: Plan, seen: Facts) -> None:
        if any(case.leaving for case in plan_cases(plan, seen)):
            self._kept = len(self.capacities)

        assert broken_by_plan(plan, seen) == (), f"at {self.now}: {seen.cautions}"


def sent_to(observed: Observed) -> set[Address | None]:
    """The addresses HAProxy sends to."""
    return {
        slot.address
        for slot in observed.backends["web"].slots
        if slot.admin is AdminState.READY and slot.weight > 0 and slot.is_up
    }


def sure(observed: Observed) -> set[Address | None]:
    """Those of them that passed a check."""
    slots = observed.backends["web"].slots
    return sent_to(
        Observed({"web": Backend("web", tuple(one for one in slots if one.first_check is FirstCheck.PASSED))})
    )
