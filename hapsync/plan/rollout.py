"""The way of HAProxy to other settings or more slots, as a value with its table of transitions.

Times are seconds of one monotonic clock, which the caller reads. `S` is the type of the operator's settings, which
are only compared.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Generic, TypeVar

import attrs

from hapsync.model.changes import Shortage
from hapsync.plan.desired import Desired
from hapsync.plan.growth import Need, needed
from hapsync.plan.plan import describe_shortage

S = TypeVar("S")

EDITED = "the template or hapsync.toml changed"
OLDER_FILE = "HAProxy may run with an older file"
UNAVAILABLE_SECONDS = 2.0
"""The pause after a reload that could not begin; the reload gap, if longer."""
LOSS_SECONDS = 10.0
"""The pause after a reload that would lose foreign servers; Consul may have them by then."""
REFUSED_SECONDS = 60.0
REFUSED_LIMIT_SECONDS = 3600.0
"""The pause after a refused attempt doubles each time up to the limit. The cause may be temporary, such as a
certificate or a map in the middle of its replacement."""
CHECKS = 3
"""The target may change during a check. After this number of checks beside the passes, the passes wait for the next
one."""


class State(Enum):
    """The state of HAProxy on its way to the current settings and to enough slots."""

    SETTLED = "settled"
    DUE = "due"
    REFUSED = "refused"
    WAITING = "waiting"
    CHECKING = "checking"
    CHECKED = "checked"
    APPLYING = "applying"


class Event(Enum):
    """The events of a rollout."""

    ASKED = "slots are short, or the settings are not live"
    UNASKED = "neither of these any more"
    NO_PERMIT = "the reload needs a permit of the fleet"
    PERMIT = "the permit comes, or its acquire timeout ends"
    PERMIT_LOST = "the permit is lost, or changes are stopped"
    UNCHECKED = "the candidate is another than the checked one"
    CHECK_ENDED = "the check command ends"
    RELOAD = "the candidate needs a reload"
    LIVE = "the candidate differs by whole backends only"
    MADE = "HAProxy has it"
    LIVE_REFUSED = "HAProxy refuses a whole backend"
    PARTLY = "some backends' server_options are refused"
    UNAVAILABLE = "the reload could not be begun"
    WOULD_LOSE = "foreign servers would be lost"
    REFUSED = "the candidate is refused"
    GIVEN_UP = "refused, and earlier settings are live"
    AWAY = "HAProxy is away, or other settings are taken"
    MENDED = "SIGHUP, a release, or a new worker"


class Do(Enum):
    """The action of the agent on a transition."""

    ASK_PERMIT = "ask the fleet for a permit"
    GIVE_BACK = "give the permit back"
    CHECK = "run the check command"
    RELOAD = "write the file and reload"
    MAKE_LIVE = "add and close the backends live"


@attrs.frozen
class Transition:
    """The state after an event, and the action of the agent."""

    next_state: State
    action: Do | None = None


_MAY_ADVANCE = (State.DUE, State.REFUSED, State.CHECKED)
_MAY_FAIL = (*_MAY_ADVANCE, State.APPLYING)
_BEFORE_APPLYING = (State.DUE, State.REFUSED, State.WAITING, State.CHECKING, State.CHECKED)


def _rows(states: Iterable[State], event: Event, *row: State | Do) -> Mapping[tuple[State, Event], Transition]:
    (next_state,) = (one for one in row if isinstance(one, State))
    action = next((one for one in row if isinstance(one, Do)), None)
    return {(state, event): Transition(next_state, action) for state in states}


TRANSITIONS: Mapping[tuple[State, Event], Transition] = {
    **_rows([State.SETTLED], Event.ASKED, State.DUE),
    **_rows(_BEFORE_APPLYING, Event.UNASKED, State.SETTLED, Do.GIVE_BACK),
    **_rows(_MAY_ADVANCE, Event.NO_PERMIT, State.WAITING, Do.ASK_PERMIT),
    **_rows([State.WAITING], Event.PERMIT, State.DUE),
    **_rows([State.DUE, State.WAITING, State.CHECKED], Event.PERMIT_LOST, State.DUE, Do.GIVE_BACK),
    **_rows([State.CHECKING], Event.PERMIT_LOST, State.CHECKING, Do.GIVE_BACK),
    **_rows(_MAY_ADVANCE, Event.UNCHECKED, State.CHECKING, Do.CHECK),
    **_rows([State.CHECKING], Event.CHECK_ENDED, State.CHECKED),
    **_rows(_MAY_ADVANCE, Event.RELOAD, State.APPLYING, Do.RELOAD),
    **_rows(_MAY_ADVANCE, Event.LIVE, State.APPLYING, Do.MAKE_LIVE),
    **_rows([State.APPLYING], Event.MADE, State.SETTLED, Do.GIVE_BACK),
    **_rows([State.APPLYING], Event.LIVE_REFUSED, State.DUE),
    **_rows(_MAY_FAIL, Event.PARTLY, State.DUE, Do.GIVE_BACK),
    **_rows(_MAY_FAIL, Event.UNAVAILABLE, State.DUE, Do.GIVE_BACK),
    **_rows(_MAY_FAIL, Event.WOULD_LOSE, State.DUE, Do.GIVE_BACK),
    **_rows(_MAY_FAIL, Event.REFUSED, State.REFUSED, Do.GIVE_BACK),
    **_rows(_MAY_FAIL, Event.GIVEN_UP, State.SETTLED, Do.GIVE_BACK),
    **_rows([State.CHECKING], Event.AWAY, State.CHECKING, Do.GIVE_BACK),
    **_rows([State.DUE, State.WAITING, State.CHECKED, State.APPLYING], Event.AWAY, State.DUE, Do.GIVE_BACK),
    **_rows([State.REFUSED], Event.MENDED, State.DUE),
}
"""An event without a row for the present state changes nothing."""


@attrs.frozen
class Refusal(Generic[S]):
    """The last refused attempt; the same attempt is tried again from `until_seconds` on.

    `pause_seconds` is the pause after its next refusal.
    """

    attempt: tuple[Desired, S]
    until_seconds: float
    pause_seconds: float


@attrs.frozen
class Rollout(Generic[S]):
    """The current settings and the state of HAProxy with them; each method returns the value after an event.

    `previous`: the live settings while others are on their way. `need`: the shortages that wait for a reload.
    `settings_due_seconds`: not None while the settings are not live; until then the reload waits for the catalog.
    `not_taken`: why settings were given up; only a new reading of the files clears it. `error`: why the current
    settings failed. `quarantined`: why backends keep their old server_options, by name. `losing`, `given_up`: the
    foreign servers that the last reload, and the abandoned settings, would take out. `is_doubted`: the worker may be
    older than the file. `is_live_refused`: HAProxy refused whole backends, so these need a reload.
    """

    settings: S
    state: State = State.SETTLED
    previous: S | None = None
    need: Need | None = None
    settings_due_seconds: float | None = None
    settings_why: str = EDITED
    is_doubted: bool = False
    is_live_refused: bool = False
    has_permit: bool = False
    checks: int = 0
    reloaded_seconds: float | None = None
    not_before_seconds: float = 0.0
    refusal: Refusal[S] | None = None
    not_taken: str | None = None
    error: str | None = None
    quarantined: Mapping[str, str] = attrs.Factory(dict)
    losing_now: Mapping[str, frozenset[str]] = attrs.Factory(dict)
    given_up: Mapping[str, frozenset[str]] = attrs.Factory(dict)

    # Properties and questions

    @property
    def is_due(self) -> bool:
        """A reload is needed, now or later."""
        return self.need is not None or self.settings_due_seconds is not None

    @property
    def short(self) -> frozenset[str]:
        """The backends that are short of slots."""
        return frozenset(shortage.backend for shortage in self.need.shortages) if self.need else frozenset()

    @property
    def losing(self) -> Mapping[str, frozenset[str]]:
        """The foreign servers, by backend, that a due reload, or the abandoned settings, would have taken out."""
        return {**self.given_up, **(self.losing_now if self.is_due else {})}

    @property
    def problem(self) -> str | None:
        """The reason why the operator's settings are neither live nor on their way; None without one."""
        error = self.not_taken or self.error
        if error:
            return f"settings not taken: {error}"
        return f"settings taken, but {'; '.join(self.quarantined.values())}" if self.quarantined else None

    @property
    def why(self) -> str:
        """The cause of the reload, in words."""
        shortages = self.need.shortages if self.need else ()
        whys = [" ".join(describe_shortage(shortage).split()) for shortage in shortages]
        if self.settings_due_seconds is not None:
            whys.insert(0, self.settings_why)
        return "; ".join(whys)

    def is_for_settings_because(self, why: str) -> bool:
        """Return whether settings that changed for this reason need a reload."""
        return self.settings_due_seconds is not None and self.settings_why == why

    def attempt(self, wanted: Desired) -> tuple[Desired, S]:
        """Return the attempt of a reload: a repeated attempt with the same values would be refused again."""
        if self.settings_due_seconds is not None or self.need is None:
            return wanted, self.settings
        return wanted.only(self.short), self.settings

    def due_seconds(
        self, now_seconds: float, attempt: tuple[Desired, S], gap_seconds: float, *, is_told: bool
    ) -> float | None:
        """Return the time to call `advanced`: after the need has settled and the reload gap is over; None: not now.

        `is_told`: all services were read, so changed settings do not wait for the catalog.
        """
        if self.state is State.CHECKED:
            return now_seconds
        if self.state not in _MAY_ADVANCE:
            return None
        settings_at = now_seconds if self.settings_due_seconds is not None and is_told else self.settings_due_seconds
        causes = [at for at in (settings_at, self.need.due_seconds if self.need else None) if at is not None]
        at = max(self.not_before_seconds, min(causes))
        if self.refusal is not None and self.refusal.attempt == attempt:
            at = max(at, self.refusal.until_seconds)
        return at if self.reloaded_seconds is None else max(at, self.reloaded_seconds + gap_seconds)

    # Events that need a reload, or end the need

    def taken(self, settings: S, why: str, due_seconds: float | None) -> "Rollout[S]":
        """Take new settings, to be made live; the last live settings stay as `previous`."""
        if self.settings_due_seconds is not None:
            return self.moved_to(settings, due_seconds)
        return attrs.evolve(self, previous=self.settings, settings_why=why).moved_to(settings, due_seconds)

    def moved_to(self, settings: S, due_seconds: float | None) -> "Rollout[S]":
        """Replace the current settings, and forget the shortages; `due_seconds` as in `compared`."""
        return _after(attrs.evolve(self, settings=settings, need=None), Event.AWAY).compared(due_seconds)

    def compared(self, due_seconds: float | None) -> "Rollout[S]":
        """Note a comparison of settings and file: None if the file is made from them, else the time of the reload."""
        error = self.error if due_seconds is not None else None
        return _settled(attrs.evolve(self, settings_due_seconds=due_seconds, is_live_refused=False, error=error))

    def not_accepted(self, why: str) -> "Rollout[S]":
        """Note that the operator's present files cannot be used, and `why`."""
        return attrs.evolve(self, not_taken=why)

    def new_worker(self, now_seconds: float, *, is_half_reloaded: bool) -> "Rollout[S]":
        """Note that another worker answers; `is_half_reloaded`: a killed agent left a file newer than the worker."""
        now = attrs.evolve(self, is_doubted=False)
        return now.doubted(now_seconds) if is_half_reloaded else now

    def doubted(self, now_seconds: float) -> "Rollout[S]":
        """Note that the worker may be older than the file, so the file proves nothing about the worker."""
        return _settled(
            attrs.evolve(self, is_doubted=True, settings_due_seconds=now_seconds, settings_why=OLDER_FILE)
        )

    def short_of(self, shortages: Iterable[Shortage], backends: set[str], now_seconds: float) -> "Rollout[S]":
        """Note the `shortages` after a pass over `backends`."""
        others = [one for one in (self.need.shortages if self.need else ()) if one.backend not in backends]
        found = sorted((*others, *shortages), key=lambda shortage: shortage.backend)
        need = needed(self.need, found, now_seconds)
        return _settled(self if need is self.need else attrs.evolve(self, need=need))

    def away(self) -> "Rollout[S]":
        """Note that HAProxy is away or was replaced; its shortages are read anew."""
        return _settled(_after(attrs.evolve(self, need=None), Event.AWAY))

    def mended(self) -> "Rollout[S]":
        """Forget the refusal, because its cause may be mended."""
        now = attrs.evolve(self, refusal=None, not_before_seconds=0.0, is_live_refused=False)
        return _after(now, Event.MENDED)

    def read_again(self) -> "Rollout[S]":
        """Forget the errors of the last reading, because the operator's files are read anew."""
        return attrs.evolve(self.mended(), losing_now={}, given_up={}, not_taken=None, error=None, quarantined={})

    # Steps of the rollout

    def permit_came(self) -> "Rollout[S]":
        """Note the permit of the fleet, or the end of the acquire timeout; the reload may go on."""
        return _after(self, Event.PERMIT)

    def permit_lost(self) -> "Rollout[S]":
        """Note the loss of the permit, or the end of the need for a reload."""
        return _after(self, Event.PERMIT_LOST)

    def check_ended(self) -> "Rollout[S]":
        """Note that the check command has ended."""
        return _after(self, Event.CHECK_ENDED)

    def advanced(self, *, is_live: bool, needs_permit: bool, is_checked: bool) -> tuple["Rollout[S]", Do | None]:
        """Return the value after the next step of the rollout, and the action of the step.

        `is_live`: no reload is needed. `is_checked`: the check command accepted this candidate.
        """
        if not is_live and needs_permit and not self.has_permit:
            return _transition(self, Event.NO_PERMIT)
        if not is_checked and self.checks < CHECKS:
            return _transition(attrs.evolve(self, checks=self.checks + 1), Event.UNCHECKED)
        return _transition(self, Event.LIVE if is_live else Event.RELOAD)

    def live_refused(self) -> "Rollout[S]":
        """Note that HAProxy refused whole backends, so a reload has to bring them."""
        return _after(attrs.evolve(self, is_live_refused=True), Event.LIVE_REFUSED)

    def made(self, now_seconds: float, *, is_reload: bool) -> "Rollout[S]":
        """Note that the current settings are live; after a reload no need is left."""
        now = attrs.evolve(
            self, previous=None, error=None, losing_now={}, settings_due_seconds=None, settings_why=EDITED, checks=0
        )
        if is_reload:
            now = attrs.evolve(now, need=None, is_doubted=False, reloaded_seconds=now_seconds)
        return _settled(_after(now, Event.MADE))

    def partly(self, settings: S, why: Mapping[str, str], due_seconds: float | None) -> "Rollout[S]":
        """Note that HAProxy refused the server_options of some backends; `settings` keep the old ones there."""
        now = attrs.evolve(self, quarantined={**self.quarantined, **why})
        return _after(now, Event.PARTLY).moved_to(settings, due_seconds)

    def failed(
        self,
        event: Event,
        error: str,
        attempt: tuple[Desired, S],
        now_seconds: float,
        losing: Mapping[str, frozenset[str]],
    ) -> "Rollout[S]":
        """Note that `attempt` failed: `event` is UNAVAILABLE, WOULD_LOSE or REFUSED.

        The state is DUE if the rollout tries again by itself. Where earlier settings are live, the refused ones are
        given up for them.
        """
        is_settings = self.settings_due_seconds is not None
        goes_back = is_settings and self.previous is not None and event is not Event.UNAVAILABLE
        now = attrs.evolve(self, checks=0, reloaded_seconds=now_seconds, losing_now=losing)
        if event is Event.UNAVAILABLE:
            now = attrs.evolve(now, not_before_seconds=now_seconds + UNAVAILABLE_SECONDS)
        elif event is Event.WOULD_LOSE and not goes_back:
            now = attrs.evolve(now, not_before_seconds=now_seconds + LOSS_SECONDS)
        else:
            again = self.refusal if self.refusal is not None and self.refusal.attempt == attempt else None
            pause_seconds = again.pause_seconds if again is not None else REFUSED_SECONDS
            later_seconds = min(2 * pause_seconds, REFUSED_LIMIT_SECONDS)
            now = attrs.evolve(now, refusal=Refusal(attempt, now_seconds + pause_seconds, later_seconds))
        if goes_back and self.previous is not None:
            now = attrs.evolve(
                now,
                settings=self.previous,
                previous=None,
                need=None,
                settings_due_seconds=None,
                not_taken=error,
                error=None,
                quarantined={},
                given_up=losing,
            )
            event = Event.GIVEN_UP
        elif is_settings:
            now = attrs.evolve(now, error=error)
        return _after(now, event)


def _after(rollout: Rollout[S], event: Event) -> Rollout[S]:
    return _transition(rollout, event)[0]


def _settled(rollout: Rollout[S]) -> Rollout[S]:
    return _after(rollout, Event.ASKED if rollout.is_due else Event.UNASKED)


def _transition(rollout: Rollout[S], event: Event) -> tuple[Rollout[S], Do | None]:
    row = TRANSITIONS.get((rollout.state, event))
    if row is None:
        return rollout, None
    has_permit = (rollout.has_permit or event is Event.PERMIT) and row.action is not Do.GIVE_BACK
    return attrs.evolve(rollout, state=row.next_state, has_permit=has_permit), row.action
