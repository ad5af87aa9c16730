"""The watch of one service as a state machine: findings in; the next read, the next pause and the news out.

`advance` neither reads nor sleeps, and has no clock: its caller does this, and passes the time and the result in.
`TRANSITIONS` is the whole machine. Every answer is examined for three faults: too great a loss, a state older than a
trusted one, and, with a streaming agent, conditions that streamed answers do not report.
"""

import enum
import math
from collections.abc import Mapping

import attrs

from hapsync.consul.evidence import Finding, loses, needs_confirming, same_content
from hapsync.consul.watch_state import (
    CACHE_RETRY_SECONDS,
    NO_CASE,
    Activity,
    Case,
    Failed,
    Found,
    GivenUp,
    Moment,
    Read,
    Rested,
    Watching,
    WatchState,
)
from hapsync.model.catalog import Doubt

CACHE_NOTICES_SECONDS = 2.0
"""After this time without the servers, the `Age` of the agent's cache is above a second."""
SAFETY_SECONDS = (300.0, 600.0)
"""The shortest and the longest interval of safety reads, which find a change whose wake-up was lost."""
SHORTEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS = 0.05, 0.25
LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 30.0
"""The longest pause after a failed read, for an agent on this host and for a remote one."""
QUIET_SECONDS = 5.0
"""After this time without a failure, the next failure counts as the first one."""
DOUBT_CAP_SECONDS = 2.0
"""The longest pause before the next read while Consul's answers are in doubt."""


@enum.unique
class Event(enum.Enum):
    """The meaning of the end of a pause, or of the result of a read."""

    RESTORED = "a snapshot may have been restored"
    TROUBLE = "trouble with the servers"
    CACHE_DUE = "the cache may agree again"
    SAFETY_DUE = "the safety read is due"
    RESTED = "nothing else is due"
    INTERRUPTED = "the read was given up, or trouble was told meanwhile"
    FAILED = "no answer"
    SILENT = "no answer, and none is needed"
    SAME = "nothing new"
    STREAMED = "streamed, and one plain read has to be compared"
    DISPUTED = "the leader has to confirm it"
    SETTLED = "the answer is settled"


@enum.unique
class Publishes(enum.Enum):
    """The reading that a transition publishes."""

    ANSWER = "the answer, with the doubt it leaves"
    KNOWN = "what is known, in doubt"


@attrs.frozen
class Transition:
    """The next activity of the watch, and the reading that it publishes first."""

    next: Activity
    publishes: Publishes | None = None


_AGAIN = Transition(Activity.PAUSE)
_FAIL = Transition(Activity.PAUSE, Publishes.KNOWN)
_KEEP = Transition(Activity.PAUSE, Publishes.ANSWER)
_FOLLOW, _COMPARE, _CONFIRM = map(Transition, (Activity.FOLLOW, Activity.COMPARE, Activity.CONFIRM))

TRANSITIONS: Mapping[tuple[Activity, Event], Transition] = {
    (Activity.PAUSE, Event.RESTORED): Transition(Activity.HEAR_LEADER),
    (Activity.PAUSE, Event.TROUBLE): Transition(Activity.LOOK_AFRESH),
    (Activity.PAUSE, Event.CACHE_DUE): Transition(Activity.TRY_CACHE),
    (Activity.PAUSE, Event.SAFETY_DUE): Transition(Activity.CHECK),
    (Activity.PAUSE, Event.RESTED): _FOLLOW,
    (Activity.FOLLOW, Event.INTERRUPTED): _AGAIN,
    (Activity.FOLLOW, Event.FAILED): _FAIL,
    (Activity.FOLLOW, Event.STREAMED): _COMPARE,
    (Activity.FOLLOW, Event.DISPUTED): _CONFIRM,
    (Activity.FOLLOW, Event.SETTLED): _KEEP,
    (Activity.HEAR_LEADER, Event.INTERRUPTED): _AGAIN,
    (Activity.HEAR_LEADER, Event.FAILED): Transition(Activity.LOOK_AFRESH),
    (Activity.HEAR_LEADER, Event.SILENT): _FOLLOW,
    (Activity.HEAR_LEADER, Event.SAME): _FOLLOW,
    (Activity.HEAR_LEADER, Event.STREAMED): _COMPARE,
    (Activity.HEAR_LEADER, Event.DISPUTED): _CONFIRM,
    (Activity.HEAR_LEADER, Event.SETTLED): _KEEP,
    (Activity.LOOK_AFRESH, Event.INTERRUPTED): _AGAIN,
    (Activity.LOOK_AFRESH, Event.FAILED): _FAIL,
    (Activity.LOOK_AFRESH, Event.SAME): _FOLLOW,
    (Activity.LOOK_AFRESH, Event.STREAMED): _COMPARE,
    (Activity.LOOK_AFRESH, Event.DISPUTED): _CONFIRM,
    (Activity.LOOK_AFRESH, Event.SETTLED): _KEEP,
    (Activity.TRY_CACHE, Event.INTERRUPTED): _AGAIN,
    (Activity.TRY_CACHE, Event.SILENT): _FOLLOW,
    (Activity.TRY_CACHE, Event.SAME): _FOLLOW,
    (Activity.CHECK, Event.INTERRUPTED): _AGAIN,
    (Activity.CHECK, Event.SILENT): _FOLLOW,
    (Activity.CHECK, Event.SAME): _FOLLOW,
    (Activity.CHECK, Event.STREAMED): _COMPARE,
    (Activity.CHECK, Event.DISPUTED): _CONFIRM,
    (Activity.CHECK, Event.SETTLED): _KEEP,
    (Activity.COMPARE, Event.INTERRUPTED): _AGAIN,
    (Activity.COMPARE, Event.FAILED): _FAIL,
    (Activity.COMPARE, Event.DISPUTED): _CONFIRM,
    (Activity.COMPARE, Event.SETTLED): _KEEP,
    (Activity.CONFIRM, Event.INTERRUPTED): _AGAIN,
    (Activity.CONFIRM, Event.FAILED): _FAIL,
    (Activity.CONFIRM, Event.SETTLED): _KEEP,
}


@attrs.frozen
class Step:
    """The result of a finding: the state of the watch, the next read or else the pause, and whether there is news.

    `hangs_up`: the connection has to be closed.
    """

    watching: Watching
    read: Read | None
    pause_seconds: float = 0.0
    is_news: bool = False
    hangs_up: bool = False


# -- findings -----------------------------------------------------------------------------------------


def advance(watching: Watching, found: Found, at: Moment) -> Step:
    """Return the step after `found`, the result of the present activity."""
    event, then = _meaning(watching, found, at)
    transition = TRANSITIONS[watching.activity, event]
    match transition.publishes:
        case Publishes.ANSWER:
            return _kept(then, at)
        case Publishes.KNOWN:
            return failed(then, then.error, at)
        case None:
            pass
    then = attrs.evolve(then, activity=transition.next)
    return Step(then, then.read(at) if transition.next is not Activity.PAUSE else None)


def failed(watching: Watching, error: str, at: Moment) -> Step:
    """Return the step after a failure in any activity of the watch: the reading stays, in doubt."""
    state, now = watching.state, at.seconds
    reading = state.reading
    if reading is None and watching.known is not None:
        is_fallback = watching.known.doubt is Doubt.FALLBACK
        reading = watching.marked(watching.known, Doubt.FALLBACK if is_fallback else Doubt.SNAPSHOT)
    elif reading is not None and reading.doubt in {None, Doubt.UNCONFIRMED}:
        reading = watching.marked(reading, Doubt.AWAY)
    since = now if state.error is None else watching.failing_since
    # A run of failures ends after some time without one, not with the first good answer.
    failures = 0 if now - watching.failed_at > QUIET_SECONDS else watching.failures + 1
    longest = min(
        LOCAL_SECONDS if watching.is_local else REMOTE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 10)
    )
    pause = at.between(SHORTEST_PAUSE_SECONDS, longest)
    then = attrs.evolve(
        watching,
        state=attrs.evolve(state, reading=reading, error=error),
        activity=Activity.PAUSE,
        index=0,
        failing_since=since,
        failures=failures,
        failed_at=now + pause,
    )
    # The watch alternates between servers and cache, for either may come back first. It does not go to the cache at
    # once, because the cache may not have noticed the trouble yet.
    if not watching.is_direct:
        then = then.past_cache(now)
    elif now - since > CACHE_NOTICES_SECONDS:
        then = attrs.evolve(then, is_direct=False)
    return Step(then, None, pause, is_news=reading is not state.reading, hangs_up=True)


# -- events of findings -------------------------------------------------------------------------------


def _meaning(watching: Watching, found: Found, at: Moment) -> tuple[Event, Watching]:
    match found:
        case Rested():
            return _due(watching, at)
        case GivenUp():
            return Event.INTERRUPTED, watching
        case Failed():
            return _missed(watching, found, at)
        case Finding() if found.is_early:
            return Event.INTERRUPTED, watching.alarmed(is_rewound=True)
        case Finding():
            return _answered(watching, found, at)


def _answered(watching: Watching, found: Finding, at: Moment) -> tuple[Event, Watching]:
    if watching.is_alarmed:  # the trouble explains losses in the answer
        return Event.INTERRUPTED, watching
    match watching.activity:
        case Activity.HEAR_LEADER:
            heard = attrs.evolve(watching, trust=watching.trust.heard(found, at.seconds))
            return _unless_same(heard, found, at)
        case Activity.LOOK_AFRESH:
            return _unless_same(watching, found, at)
        case Activity.TRY_CACHE:
            return Event.SAME, watching.tried_cache(found)
        case Activity.CHECK if not watching.trust.is_news(found, watching.state.reading):
            return Event.SAME, watching
        case Activity.CHECK:  # only the leader can confirm an older state, for the server may lag
            return _settle(watching.past_cache(at.seconds), found, at)
        case Activity.COMPARE:
            return _compared(watching, found, at)
        case Activity.CONFIRM:
            return _confirmed(watching, found)
        case Activity.PAUSE | Activity.FOLLOW:
            pass
    if found.is_behind and watching.state.error is not None and watching.state.index:
        age = f"{found.age_seconds:.0f} s"
        return Event.FAILED, watching.because(f"the agent's cache has not heard of the servers for {age}")
    return _settle(watching, found, at)


def _due(watching: Watching, at: Moment) -> tuple[Event, Watching]:
    now, is_alarmed = at.seconds, watching.is_alarmed
    trust = watching.trust.warned(now, is_rewound=watching.is_rewound) if is_alarmed else watching.trust
    if watching.doubt is Doubt.FILTERED:  # the leader cannot confirm a token's rights
        trust = attrs.evolve(trust, is_unheard=False)
    is_past = watching.is_streamed and trust.is_wary(now)
    # The index of another source might only block; an index of 1 returns the content at once.
    index = watching.index if is_past is watching.is_past_stream else min(watching.index, 1)
    then = watching
    if is_alarmed or watching.is_told or trust is not watching.trust or is_past is not watching.is_past_stream:
        then = attrs.evolve(
            watching,
            trust=trust,
            is_alarmed=False,
            is_rewound=False,
            is_told=is_alarmed,
            is_past_stream=is_past,
            index=index,
        )
    if watching.state.reading is not None and trust.is_rewind_open(now):
        return Event.RESTORED, then
    if is_alarmed:
        return Event.TROUBLE, then
    if watching.is_direct and now >= watching.cache_at:
        then = attrs.evolve(then, cache_at=now + CACHE_RETRY_SECONDS)
        is_sure = watching.state.reading is not None and watching.doubt is None
        return (Event.CACHE_DUE if is_sure else Event.RESTED), then
    if watching.index > 0 and now >= watching.safety_at:
        then = attrs.evolve(then, safety_at=now + at.between(*SAFETY_SECONDS))
        if watching.is_through_cache:
            return Event.SAFETY_DUE, then
        then = attrs.evolve(then, index=0)
    return Event.RESTED, then


def _missed(watching: Watching, found: Failed, at: Moment) -> tuple[Event, Watching]:
    """Return the event of a read without an answer."""
    # After a lost connection the agent may have restarted, and an older index would only block.
    then = attrs.evolve(watching, error=found.error, index=watching.index if found.is_connected else 0)
    case, is_failing = watching.case, watching.state.error is not None
    match watching.activity:
        case Activity.HEAR_LEADER:
            return (Event.FAILED if watching.is_told else Event.SILENT), then
        case Activity.TRY_CACHE | Activity.CHECK:  # the next blocking query shows the state of Consul
            return Event.SILENT, then
        case Activity.COMPARE | Activity.CONFIRM if watching.is_alarmed:
            return Event.INTERRUPTED, then
        case Activity.COMPARE if not is_failing:
            return _proven(watching, attrs.evolve(case, found=attrs.evolve(case.found, doubt=Doubt.AWAY)), at)
        case Activity.COMPARE:
            return Event.FAILED, then.because("the agent answers out of its stream, the servers do not")
        case Activity.CONFIRM if not (is_failing and case.asked.is_streamed):
            doubt = case.found.doubt or (Doubt.UNCONFIRMED if case.needs or case.differs else Doubt.STALE)
            return _in_case(watching, Event.SETTLED, case, found=attrs.evolve(case.found, doubt=doubt))
        case Activity.CONFIRM:
            return Event.FAILED, then.because("the leader does not confirm it")
        case Activity.PAUSE | Activity.FOLLOW | Activity.LOOK_AFRESH:
            return Event.FAILED, then


def _unless_same(watching: Watching, found: Finding, at: Moment) -> tuple[Event, Watching]:
    is_working = watching.state.error is None and watching.doubt is None
    if is_working and not watching.trust.is_news(found, watching.state.reading):
        is_other_index = watching.is_streamed and not watching.is_past_stream
        index = 0 if watching.is_through_cache else 1 if is_other_index else max(found.index, 1)
        return Event.SAME, attrs.evolve(watching, index=index)
    return _settle(watching.past_cache(at.seconds), found, at)


# -- evidence of answers ------------------------------------------------------------------------------


def _settle(watching: Watching, found: Finding, at: Moment) -> tuple[Event, Watching]:
    """Begin to settle the evidence of `found`."""
    state = watching.state
    is_other = state.reading is None or not same_content(found.reading, state.reading)
    case = Case(found, found, differs=watching.trust.is_wary(at.seconds) and found.is_streamed and is_other)
    # No answer so far proved the token's rights and a leader, or an answer showed a fault.
    is_unproven = state.trusted is None or state.error is not None or watching.doubt is not None
    if found.is_streamed and (is_unproven or loses(watching.trust.reading, found.reading)):
        return _in_case(watching, Event.STREAMED, case)
    return _proven(watching, case, at)


def _compared(watching: Watching, plain: Finding, at: Moment) -> tuple[Event, Watching]:
    case = watching.case
    differs = case.differs or not same_content(plain.reading, case.asked.reading)
    return _proven(watching, attrs.evolve(case, found=_with(case.found, plain), differs=differs), at)


def _proven(watching: Watching, case: Case, at: Moment) -> tuple[Event, Watching]:
    found, trust = case.found, watching.trust
    needs = needs_confirming(trust.reading, found.reading, found.doubt) or trust.is_older(found, at.seconds)
    # The leader cannot confirm a token's rights, and a server without a leader cannot ask it.
    is_hopeless = found.doubt is Doubt.FILTERED or (watching.doubts > 0 and found.doubt is Doubt.NO_LEADER)
    is_disputed = (needs or case.differs or found.index < trust.index) and not is_hopeless
    if needs is not case.needs:
        case = attrs.evolve(case, needs=needs)
    return (Event.DISPUTED if is_disputed else Event.SETTLED), attrs.evolve(watching, case=case)


def _confirmed(watching: Watching, leader: Finding) -> tuple[Event, Watching]:
    case = watching.case
    # A leader with a higher index may only be newer than the cache. At the same index, a different cache is wrong.
    is_wrong = leader.index <= case.found.index and not same_content(leader.reading, case.found.reading)
    is_cache_wrong = leader.doubt is None and is_wrong
    return _in_case(watching, Event.SETTLED, case, found=_with(case.found, leader), is_cache_wrong=is_cache_wrong)


def _in_case(watching: Watching, event: Event, case: Case, **changes: object) -> tuple[Event, Watching]:
    return event, attrs.evolve(watching, case=attrs.evolve(case, **changes))  # type: ignore[arg-type]


# -- steps after answers ------------------------------------------------------------------------------


def _kept(watching: Watching, at: Moment) -> Step:
    """Publish the settled answer, with the doubt it leaves, and pause."""
    asked, found, now = watching.case.asked, watching.case.found, at.seconds
    before = watching.state
    is_backwards = watching.trust.goes_back(found, now)
    reading = watching.marked(attrs.evolve(found.reading, index=found.index), found.doubt, is_backwards=is_backwards)
    state = WatchState(
        reading,
        found.index,
        at.wall_seconds - (found.age_seconds if math.isfinite(found.age_seconds) else 0.0),
        None,
        found.is_cached,
        reading if found.doubt is None else before.trusted,
    )
    is_refuted = asked.is_streamed and not same_content(asked.reading, found.reading)
    index = max(found.index, 1)
    if asked.is_streamed:  # the next query waits for the stream's own index, whatever the servers' index
        index = 1 if is_refuted else max(asked.index, 1)
    elif watching.is_streamed and not (watching.is_past_stream or watching.index):
        index = 1  # an index of 1 returns the view at once
    then = attrs.evolve(
        watching,
        state=state,
        activity=Activity.PAUSE,
        trust=watching.trust.taken(found, now, is_backwards=is_backwards),
        case=NO_CASE,
        index=index,
        is_streamed=watching.is_streamed or asked.is_streamed,
        refutations=watching.refutations + 1 if is_refuted else 0,
    )
    paced, pause = _paced(then, found, watching.case, at)
    return Step(paced, None, pause, is_news=reading is not before.reading)


def _paced(watching: Watching, found: Finding, case: Case, at: Moment) -> tuple[Watching, float]:
    """Leave a cache that is of no use, and return the seconds to pause after `found`."""
    then = watching.past_cache(at.seconds) if case.is_cache_wrong else watching
    if then.is_through_cache and not found.is_cached:  # this agent has no cache
        then = attrs.evolve(then, is_direct=True, cache_at=math.inf)
    elif found.is_behind:
        then = attrs.evolve(then.past_cache(at.seconds), index=0)
    if found.doubt is None:
        pause = _doubted_seconds(watching.refutations, at) if watching.refutations else 0.0
        return (attrs.evolve(then, doubts=0) if then.doubts else then), pause
    then = then.past_cache(at.seconds)
    if found.doubt is Doubt.FILTERED:
        return then, 0.0
    # No query blocks while in doubt: at a server without a leader it would only wait.
    return attrs.evolve(then, index=0, doubts=watching.doubts + 1), _doubted_seconds(watching.doubts + 1, at)


def _with(found: Finding, later: Finding) -> Finding:
    """Return `found` as corrected by a `later` answer past cache and stream."""
    if later.doubt is not None:
        return attrs.evolve(found, doubt=later.doubt)
    return attrs.evolve(later, age_seconds=found.age_seconds, is_cached=found.is_cached)


def _doubted_seconds(times: int, at: Moment) -> float:
    """Return the seconds to pause after so many `times` of answers in doubt."""
    longest = min(DOUBT_CAP_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(times - 1, 10))
    return at.between(0.5, 1.0) * longest
