"""The rollout as a table, and its laws over whatever happens in whatever order."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings as hypothesis_settings, strategies as st

from hapsync.model.changes import Shortage
from hapsync.plan import rollout as rollout_module
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.rollout import (
    CHECKS,
    LOSS_SECONDS,
    OLDER_FILE,
    REFUSED_LIMIT_SECONDS,
    REFUSED_SECONDS,
    TRANSITIONS,
    UNAVAILABLE_SECONDS,
    Do,
    Event,
    Rollout,
    State,
    Transition,
)

WANTED = Desired({"web": DesiredBackend("web", 1), "api": DesiredBackend("api", 1)})
SHORT = Shortage("web", (), 1)
STATIC = {"web": frozenset({"old1", "old2"})}
GAP_SECONDS = 5.0
DUE = Rollout("new").taken("newer", "edited", 10.0)
"""`new` is live, and `newer` is to be."""


def short(rollout: Rollout[str], now_seconds: float = 0.0) -> Rollout[str]:
    return rollout.short_of([SHORT], {"web"}, now_seconds)


def failed(rollout: Rollout[str], event: Event, now_seconds: float = 0.0) -> Rollout[str]:
    losing = STATIC if event is Event.WOULD_LOSE else {}
    return rollout.failed(event, "why", rollout.attempt(WANTED), now_seconds, losing)


def due(rollout: Rollout[str], now_seconds: float, *, is_told: bool = True) -> float | None:
    return rollout.due_seconds(now_seconds, rollout.attempt(WANTED), GAP_SECONDS, is_told=is_told)


# The table


def test_every_state_and_every_event_is_in_the_table_and_every_action_is_done() -> None:
    assert {state for state, _ in TRANSITIONS} | {row.next_state for row in TRANSITIONS.values()} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {row.action for row in TRANSITIONS.values()} == {*Do, None}


@pytest.mark.parametrize("state", [state for state in State if state is not State.SETTLED])
def test_from_every_state_there_is_a_way_to_settled(state: State) -> None:
    seen = {state}
    while State.SETTLED not in seen:
        more = {row.next_state for (before, _), row in TRANSITIONS.items() if before in seen} - seen
        assert more, "a dead end"
        seen |= more


def test_settings_go_from_due_to_settled_by_a_permit_a_check_and_a_reload() -> None:
    now = DUE
    assert (now.state, now.previous, now.settings) == (State.DUE, "new", "newer")
    now, action = now.advanced(is_live=False, needs_permit=True, is_checked=False)
    assert (now.state, action, due(now, 20.0)) == (State.WAITING, Do.ASK_PERMIT, None)
    now = now.permit_came()
    now, action = now.advanced(is_live=False, needs_permit=True, is_checked=False)
    assert (now.state, action, due(now, 20.0)) == (State.CHECKING, Do.CHECK, None)
    now = now.check_ended()
    assert (now.state, due(now, 20.0)) == (State.CHECKED, 20.0)
    now, action = now.advanced(is_live=False, needs_permit=True, is_checked=True)
    assert (now.state, action, now.has_permit) == (State.APPLYING, Do.RELOAD, True)
    now = now.made(20.0, is_reload=True)
    assert (now.state, now.has_permit, now.previous, now.settings) == (State.SETTLED, False, None, "newer")


def test_what_differs_by_whole_backends_only_needs_no_permit_and_may_turn_out_to_need_a_reload() -> None:
    now = attrs.evolve(DUE, checks=CHECKS)
    now, action = now.advanced(is_live=True, needs_permit=True, is_checked=False)
    assert (now.state, action) == (State.APPLYING, Do.MAKE_LIVE)
    now = now.live_refused()
    assert (now.state, now.is_live_refused) == (State.DUE, True)
    assert not now.compared(3.0).is_live_refused


def test_a_candidate_that_changes_all_the_time_is_waited_for_after_a_few_checks() -> None:
    now, actions = DUE, []
    for _ in range(CHECKS + 1):
        now, action = now.advanced(is_live=False, needs_permit=False, is_checked=False)
        actions.append(action)
        now = now.check_ended()
    assert actions == [Do.CHECK] * CHECKS + [Do.RELOAD]


def test_a_need_that_remains_after_backends_were_made_live_stays_due() -> None:
    now, _ = attrs.evolve(short(DUE), checks=CHECKS).advanced(is_live=True, needs_permit=False, is_checked=False)
    assert now.made(1.0, is_reload=False).state is State.DUE
    assert now.made(1.0, is_reload=True).state is State.SETTLED


# When it is due


def test_changed_settings_wait_for_the_catalog_but_not_for_ever() -> None:
    assert due(DUE, 4.0) == 4.0
    assert due(DUE, 4.0, is_told=False) == 10.0


def test_a_reload_waits_for_the_gap_after_the_last() -> None:
    assert due(short(attrs.evolve(DUE, reloaded_seconds=8.0), 1.0), 4.0) == 8.0 + GAP_SECONDS


@pytest.mark.parametrize(
    ("event", "at", "state"),
    [
        (Event.UNAVAILABLE, UNAVAILABLE_SECONDS, State.DUE),
        (Event.WOULD_LOSE, LOSS_SECONDS, State.DUE),
        (Event.REFUSED, REFUSED_SECONDS, State.REFUSED),
    ],
)
def test_a_growth_that_failed_is_tried_again_after_its_pause(event: Event, at: float, state: State) -> None:
    now = failed(short(Rollout("new")), event, 100.0)
    assert now.state is state
    assert due(now, 100.0) == 100.0 + max(at, GAP_SECONDS)
    assert due(now.mended(), 100.0) == 100.0 + GAP_SECONDS


def test_another_attempt_need_not_wait_for_the_refused_one() -> None:
    now = failed(short(Rollout("new")), Event.REFUSED, 100.0)
    other = attrs.evolve(WANTED, backends={"web": DesiredBackend("web", 2)})
    assert now.due_seconds(100.0, now.attempt(other), GAP_SECONDS, is_told=True) == 100.0 + GAP_SECONDS


# What is given up, lost, kept


def test_refused_settings_are_given_up_for_those_before_and_the_reason_stays_until_the_files_are_read() -> None:
    now = failed(DUE, Event.WOULD_LOSE)
    assert (now.settings, now.state, now.not_taken, now.losing) == ("new", State.SETTLED, "why", STATIC)
    for made in (short(now).made(1.0, is_reload=True), failed(short(now), Event.UNAVAILABLE)):
        assert made.problem == "settings not taken: why"
        assert made.losing == STATIC
    assert (now.read_again().problem, now.read_again().losing) == (None, {})


def test_settings_that_could_not_be_tried_and_the_first_ones_are_not_given_up() -> None:
    assert failed(DUE, Event.UNAVAILABLE).settings == "newer"
    first = Rollout("new").compared(3.0)
    assert failed(first, Event.REFUSED).problem == "settings not taken: why"
    assert failed(first, Event.REFUSED).settings == "new"
    assert failed(first, Event.REFUSED).compared(None).problem is None


def test_newer_settings_keep_the_live_ones_as_those_to_go_back_to() -> None:
    now = DUE.taken("newest", "for another reason", 20.0)
    assert (now.settings, now.previous, now.why) == ("newest", "new", "edited")
    assert failed(now, Event.REFUSED).settings == "new"


def test_settings_partly_taken_go_on_and_are_told_of() -> None:
    now = DUE.partly("newer, without", {"web": "web is quarantined"}, 12.0)
    assert (now.state, now.settings, now.previous) == (State.DUE, "newer, without", "new")
    assert now.problem == "settings taken, but web is quarantined"


def test_who_would_be_lost_by_a_growth_is_nobody_once_nothing_asks_for_it() -> None:
    now = failed(short(Rollout("new")), Event.WOULD_LOSE)
    assert now.losing == STATIC
    assert now.away().losing == {}


def test_a_worker_that_may_be_older_than_the_file_is_reloaded() -> None:
    now = Rollout("new").new_worker(5.0, is_half_reloaded=True)
    assert (now.state, now.is_doubted, now.why, due(now, 6.0)) == (State.DUE, True, OLDER_FILE, 6.0)
    assert not now.new_worker(7.0, is_half_reloaded=False).is_doubted
    assert (
        not now.advanced(is_live=False, needs_permit=False, is_checked=True)[0].made(7.0, is_reload=True).is_doubted
    )


def test_a_check_goes_on_while_haproxy_is_away_and_a_permit_is_given_back() -> None:
    checking = attrs.evolve(DUE, state=State.CHECKING, has_permit=True)
    assert (checking.away().state, checking.away().has_permit) == (State.CHECKING, False)
    assert (checking.permit_lost().state, checking.permit_lost().has_permit) == (State.CHECKING, False)


# The laws


@attrs.define
class World:
    """An agent around a rollout, which performs what that says, with drawn outcomes."""

    is_fleet: bool
    rollout: Rollout[int] = attrs.Factory(lambda: Rollout(0))
    live: int = 0
    newest: int = 0
    now_seconds: float = 0.0
    has_permit: bool = False
    is_given_up: bool = False
    refused: tuple[tuple[Desired, int], float, float] | None = None

    def compared(self, settings: int) -> float | None:
        return None if settings == self.live else self.now_seconds + 3.0

    def take(self) -> None:
        self.newest, self.is_given_up = self.newest + 1, False
        self.rollout = self.rollout.read_again()
        self.rollout = self.rollout.taken(self.newest, "edited", self.compared(self.newest))
        self.refused = None

    def is_short(self, *, is_short: bool) -> None:
        self.rollout = self.rollout.short_of([SHORT] if is_short else [], {"web"}, self.now_seconds)

    def mend(self) -> None:
        self.rollout, self.refused = self.rollout.mended(), None

    def give_back(self) -> None:
        self.has_permit = False
        self.rollout = self.rollout.permit_lost()

    def check(self) -> None:
        self.rollout = self.rollout.check_ended()

    def come(self) -> None:
        if self.rollout.state is State.WAITING:
            self.has_permit = True
            self.rollout = self.rollout.permit_came()

    def step(self, *, is_live: bool, is_checked: bool, outcome: Event) -> None:
        attempt = self.rollout.attempt(WANTED)
        at = self.rollout.due_seconds(self.now_seconds, attempt, GAP_SECONDS, is_told=True)
        if at is None or at > self.now_seconds:
            return
        is_checked = is_checked and self.rollout.state is State.CHECKED
        if self.refused is not None and self.refused[0] == attempt:
            assert self.now_seconds >= self.refused[1], "a refused attempt was made before its time"
        self.rollout, action = self.rollout.advanced(
            is_live=is_live, needs_permit=self.is_fleet, is_checked=is_checked
        )
        if action is Do.RELOAD:
            assert self.has_permit or not self.is_fleet, "a reload without a permit"
        if action in (Do.RELOAD, Do.MAKE_LIVE):
            self.perform(action, outcome, attempt)
        if not self.rollout.has_permit:
            self.has_permit = False

    def perform(self, action: Do, outcome: Event, attempt: tuple[Desired, int]) -> None:
        if outcome is Event.MADE:
            self.live = self.rollout.settings
            self.rollout = self.rollout.made(self.now_seconds, is_reload=action is Do.RELOAD)
            return
        before = self.rollout
        self.rollout = before.failed(outcome, "why", attempt, self.now_seconds, {})
        if self.rollout.refusal is not before.refusal and self.rollout.refusal is not None:
            pause_seconds = self.rollout.refusal.until_seconds - self.now_seconds
            if self.refused is not None and self.refused[0] == attempt:
                grown = min(2 * self.refused[2], REFUSED_LIMIT_SECONDS)
                assert pause_seconds == pytest.approx(grown), "a pause did not grow"
            self.refused = (attempt, self.now_seconds + pause_seconds, pause_seconds)
        if self.rollout.settings != before.settings:
            self.is_given_up = True
            self.rollout = self.rollout.moved_to(self.rollout.settings, self.compared(self.rollout.settings))

    def look(self) -> None:
        """What holds at any moment, between two events."""
        now = self.rollout
        assert now.state is not State.APPLYING, "a reload that never ends"
        is_pending = now.settings == self.newest and now.settings_due_seconds is not None
        is_live = now.settings == self.newest == self.live
        is_given_up = self.is_given_up and now.not_taken is not None and now.settings == self.live
        assert is_live or is_pending or is_given_up, "settings were lost"
        assert now.is_due or now.settings == self.live, "settings are not live, and nothing is to make them so"
        assert now.is_due == (now.state is not State.SETTLED), "the state does not say whether something is due"
        if now.state in (State.DUE, State.REFUSED, State.CHECKED):
            at = now.due_seconds(self.now_seconds, now.attempt(WANTED), GAP_SECONDS, is_told=True)
            assert at is not None, "it is never tried again"
            assert at <= self.now_seconds + REFUSED_LIMIT_SECONDS, "it is hardly ever tried again"


Op = tuple[str, Mapping[str, Any]]
STEPS = st.fixed_dictionaries(
    {
        "is_live": st.booleans(),
        "is_checked": st.booleans(),
        "outcome": st.sampled_from([Event.MADE, Event.REFUSED, Event.REFUSED, Event.UNAVAILABLE, Event.WOULD_LOSE]),
    }
)
ATTEMPTS = st.fixed_dictionaries(
    {
        "seconds": st.sampled_from([1.0, 10.0, 70.0, 4000.0]),
        "steps": st.lists(
            st.tuples(
                STEPS,
                st.sampled_from(
                    [
                        (World.come, World.check),
                        (World.come, World.check),
                        (World.come, World.give_back, World.check),
                        (World.check,),
                        (),
                    ]
                ),
            ),
            min_size=1,
            max_size=3,
        ),
    }
)
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("attempt"), ATTEMPTS),
        st.tuples(st.sampled_from(["take", "take", "mend", "give_back", "away", "doubt"]), st.just({})),
        st.tuples(st.just("is_short"), st.fixed_dictionaries({"is_short": st.booleans()})),
    ),
    max_size=15,
)


def happen(ops: Sequence[Op], *, is_fleet: bool) -> None:
    """Let `ops` happen one after another, and look after each."""
    world = World(is_fleet)
    for name, details in ops:
        match name:
            case "away":
                world.rollout = world.rollout.away()
                world.has_permit = world.has_permit and world.rollout.has_permit
            case "doubt":
                world.rollout = world.rollout.new_worker(world.now_seconds, is_half_reloaded=False)
            case "attempt":
                world.now_seconds += details["seconds"]
                for step, then in details["steps"]:
                    world.step(**step)
                    for one in then:
                        one(world)
            case _:
                getattr(world, name)(**details)
        world.look()


@given(OPS, st.booleans())
def test_the_laws_of_a_rollout(ops: Sequence[Op], is_fleet: bool) -> None:  # noqa: FBT001
    happen(ops, is_fleet=is_fleet)


Patch = pytest.MonkeyPatch


def row(state: State, event: Event, transition: Transition | None) -> Callable[[Patch], None]:
    """Return the mistake that `state` has another row for `event`, or none."""

    def mistake(patch: Patch) -> None:
        table = {key: one for key, one in TRANSITIONS.items() if key != (state, event)}
        patch.setattr(
            rollout_module, "TRANSITIONS", table if transition is None else {**table, (state, event): transition}
        )

    return mistake


def refusals_are_forgotten(patch: Patch) -> None:
    due_seconds = Rollout.due_seconds
    patch.setattr(
        Rollout, "due_seconds", lambda self, *args, **kw: due_seconds(attrs.evolve(self, refusal=None), *args, **kw)
    )


def pauses_stay_the_same(patch: Patch) -> None:
    patch.setattr(rollout_module, "REFUSED_LIMIT_SECONDS", REFUSED_SECONDS)


def new_settings_are_taken_for_live(patch: Patch) -> None:
    taken = Rollout.taken
    patch.setattr(Rollout, "taken", lambda self, settings, why, _due: taken(self, settings, why, None))


def settings_are_given_up_in_silence(patch: Patch) -> None:
    failed = Rollout.failed
    patch.setattr(Rollout, "failed", lambda *args: attrs.evolve(failed(*args), not_taken=None))


def newer_settings_are_gone_back_to(patch: Patch) -> None:
    taken = Rollout.taken
    patch.setattr(Rollout, "taken", lambda self, *args: attrs.evolve(taken(self, *args), previous=self.settings))


def slots_are_not_asked_for(patch: Patch) -> None:
    patch.setattr(rollout_module, "_settled", lambda rollout: rollout)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (row(State.DUE, Event.NO_PERMIT, Transition(State.APPLYING, Do.RELOAD)), "a reload without a permit"),
        (row(State.DUE, Event.PERMIT_LOST, Transition(State.DUE)), "a reload without a permit"),
        (row(State.CHECKING, Event.PERMIT_LOST, None), "a reload without a permit"),
        (row(State.APPLYING, Event.REFUSED, None), "a reload that never ends"),
        (row(State.APPLYING, Event.MADE, None), "a reload that never ends"),
        (row(State.WAITING, Event.UNASKED, None), "the state does not say"),
        (row(State.SETTLED, Event.ASKED, None), "the state does not say"),
        (slots_are_not_asked_for, "the state does not say"),
        (refusals_are_forgotten, "before its time"),
        (pauses_stay_the_same, "a pause did not grow"),
        (new_settings_are_taken_for_live, "settings were lost"),
        (settings_are_given_up_in_silence, "settings were lost"),
        (newer_settings_are_gone_back_to, "settings were lost"),
    ],
)
def test_each_law_is_able_to_fail(mistake: Callable[[Patch], None], said: str, monkeypatch: Patch) -> None:
    mistake(monkeypatch)

    @seed(1)
    @hypothesis_settings(
        max_examples=1000,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        report_multiple_bugs=False,
    )
    @given(OPS, st.booleans())
    def laws(ops: Sequence[Op], is_fleet: bool) -> None:  # noqa: FBT001
        happen(ops, is_fleet=is_fleet)

    with pytest.raises(AssertionError, match=re.escape(said)):
        laws()
