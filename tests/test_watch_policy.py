"""The watch of a service as a state machine: walks over its table, laws, and a mistake that breaks each law."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.consul import watch_policy, watch_state
from hapsync.consul.evidence import Finding, Trust, loses, loses_much, same_content
from hapsync.consul.watch_policy import (
    DOUBT_CAP_SECONDS,
    LOCAL_SECONDS,
    REMOTE_SECONDS,
    TRANSITIONS,
    Event,
    Step,
    advance,
)
from hapsync.consul.watch_state import (
    FILTERED_WAIT_SECONDS,
    Activity,
    Failed,
    Found,
    GivenUp,
    Moment,
    Read,
    Rested,
    Watching,
)
from hapsync.model.catalog import Doubt, Instance, Reading
from hapsync.model.server import Address, CheckStatus

ALL = frozenset(range(1, 9))
CONTENTS = (ALL, ALL, ALL, ALL - {1}, ALL - {2}, ALL | {9}, frozenset({1, 2}), frozenset[int]())
CONSISTENCIES = ("cached", "stale", "default")
DOUBTS = (None, None, None, None, Doubt.NO_LEADER, Doubt.FILTERED, Doubt.STALE)
LYING = 7
"""From this kind on answers may be streamed though such answers never are."""
LEADER = {Activity.CONFIRM, Activity.HEAR_LEADER}


def reading(*numbers: int, doubt: Doubt | None = None) -> Reading:
    instances = (Instance(f"n{one}", f"w{one}", Address("10.0.0.1", one), CheckStatus.PASSING) for one in numbers)
    return Reading("web", tuple(instances), doubt=doubt)


def answer(*numbers: int, at: int = 10, doubt: Doubt | None = None, age: float = 0.0, **what: bool) -> Finding:
    what.setdefault("is_cached", True)
    return Finding(reading(*numbers), at, doubt, age_seconds=age, **what)


# -- the table, row by row ----------------------------------------------------------------------------------

REST, NONE, CUT = Rested(), Failed("refused"), GivenUp()
RESTORE, TROUBLE = "a restored snapshot", "trouble"
EIGHT, ONE = answer(*ALL), answer(1, at=11)
PLAIN_EIGHT, PLAIN_ONE = (attrs.evolve(one, is_cached=False) for one in (EIGHT, ONE))
STREAM_EIGHT, STREAM_ONE = (attrs.evolve(one, is_streamed=True) for one in (EIGHT, ONE))
STARTED = (REST, EIGHT)
PAST = (*STARTED, REST, NONE, REST, PLAIN_EIGHT)
"""The cache failed, and the servers answered."""

WALKS: dict[str, tuple[Sequence[Found | str | float], str]] = {
    "a change is followed": ((*STARTED, REST, answer(*ALL, 9, at=11)), "FOLLOW PAUSE FOLLOW PAUSE"),
    "one that leaves costs no read": ((*STARTED, REST, answer(*ALL - {1}, at=11)), "FOLLOW PAUSE FOLLOW PAUSE"),
    "most that leave are confirmed": ((*STARTED, REST, ONE, PLAIN_ONE), "FOLLOW PAUSE FOLLOW CONFIRM PAUSE"),
    "nobody confirms": ((*STARTED, REST, ONE, NONE, REST), "FOLLOW PAUSE FOLLOW CONFIRM PAUSE FOLLOW"),
    "a failure": ((*STARTED, REST, NONE, REST), "FOLLOW PAUSE FOLLOW PAUSE FOLLOW"),
    "a stream without proof": ((REST, STREAM_EIGHT, PLAIN_EIGHT), "FOLLOW COMPARE PAUSE"),
    "a stream that servers contradict": (
        (REST, STREAM_EIGHT, PLAIN_ONE, PLAIN_ONE),
        "FOLLOW COMPARE CONFIRM PAUSE",
    ),
    "a stream, the servers away": (
        (*STARTED, REST, NONE, REST, STREAM_EIGHT, NONE),
        "FOLLOW PAUSE FOLLOW PAUSE FOLLOW COMPARE PAUSE",
    ),
    "a stream, the leader away": (
        (*STARTED, REST, NONE, REST, STREAM_ONE, PLAIN_ONE, NONE),
        "FOLLOW PAUSE FOLLOW PAUSE FOLLOW COMPARE CONFIRM PAUSE",
    ),
    "a stream, no server answers yet": ((*STARTED, REST, STREAM_ONE, NONE), "FOLLOW PAUSE FOLLOW COMPARE CONFIRM"),
    "a read given up": ((*STARTED, REST, CUT, REST), "FOLLOW PAUSE FOLLOW PAUSE FOLLOW"),
    "trouble, nothing new": (
        (*STARTED, REST, TROUBLE, CUT, REST, PLAIN_EIGHT),
        "FOLLOW PAUSE FOLLOW PAUSE LOOK_AFRESH FOLLOW",
    ),
    "trouble, and no server answers": (
        (*STARTED, REST, TROUBLE, CUT, REST, NONE),
        "FOLLOW PAUSE FOLLOW PAUSE LOOK_AFRESH PAUSE",
    ),
    "a restored snapshot, the leader lacks nothing": (
        (*STARTED, REST, RESTORE, CUT, REST, PLAIN_EIGHT),
        "FOLLOW PAUSE FOLLOW PAUSE HEAR_LEADER FOLLOW",
    ),
    "a restored snapshot, the leader is away": (
        (*STARTED, REST, RESTORE, CUT, REST, NONE, PLAIN_EIGHT, PLAIN_EIGHT, REST, NONE),
        "FOLLOW PAUSE FOLLOW PAUSE HEAR_LEADER LOOK_AFRESH FOLLOW PAUSE HEAR_LEADER FOLLOW",
    ),
    "a restored snapshot, the leader has less": (
        (*STARTED, REST, RESTORE, CUT, REST, PLAIN_ONE, PLAIN_ONE),
        "FOLLOW PAUSE FOLLOW PAUSE HEAR_LEADER CONFIRM PAUSE",
    ),
    "a blocking query that ended early": (
        (*STARTED, REST, attrs.evolve(EIGHT, is_early=True), REST),
        "FOLLOW PAUSE FOLLOW PAUSE HEAR_LEADER",
    ),
    "trouble told while the leader confirms": (
        (*STARTED, REST, ONE, RESTORE, PLAIN_ONE, REST),
        "FOLLOW PAUSE FOLLOW CONFIRM PAUSE HEAR_LEADER",
    ),
    "trouble told while the leader does not answer": (
        (*STARTED, REST, ONE, TROUBLE, NONE, REST),
        "FOLLOW PAUSE FOLLOW CONFIRM PAUSE LOOK_AFRESH",
    ),
    "the cache is tried again": (
        (*PAST, 61.0, REST, EIGHT),
        "FOLLOW PAUSE FOLLOW PAUSE FOLLOW PAUSE TRY_CACHE FOLLOW",
    ),
    "the safety read finds nothing": ((*STARTED, 601.0, REST, PLAIN_EIGHT), "FOLLOW PAUSE CHECK FOLLOW"),
    "the safety read fails": ((*STARTED, 601.0, REST, NONE), "FOLLOW PAUSE CHECK FOLLOW"),
    "the safety read finds an older state": (
        (*STARTED, 601.0, REST, attrs.evolve(PLAIN_ONE, index=9), PLAIN_ONE),
        "FOLLOW PAUSE CHECK CONFIRM PAUSE",
    ),
}


@pytest.mark.parametrize(("events", "wanted"), WALKS.values(), ids=WALKS)
def test_each_finding_leads_where_the_table_says(events: Sequence[Found | str | float], wanted: str) -> None:
    watching, now, went = Watching(service="web", safety_at=600.0), 0.0, []
    for event in events:
        if isinstance(event, str):
            watching = watching.alarmed(is_rewound=event == RESTORE)
        elif isinstance(event, float):
            now += event
        else:
            watching = advance(watching, event, Moment(now)).watching
            went.append(watching.activity.name)

    assert " ".join(went) == wanted


# -- sequences of findings ------------------------------------------------------------------------------------


@attrs.frozen
class Choice:
    """What happens at one turn, where it can."""

    kind: int
    content: frozenset[int]
    index: int
    doubt: Doubt | None
    is_streamed: bool
    is_behind: bool
    notice: int
    seconds: float
    chance: float


@attrs.frozen
class Turn:
    """One step: what was known `before` it, what was read and found, and what `step` follows."""

    before: Watching
    read: Read | None
    found: Found
    at: Moment
    step: Step


Sequence_ = tuple[str, bool, list[Choice]]
"""The consistency, whether the agent is local, and what happens."""


def drawn(choose: random.Random) -> Choice:
    return Choice(
        choose.randrange(10),
        choose.choice(CONTENTS),
        choose.choice((0, 0, 1, 1, 5, -3, -3)),
        choose.choice(DOUBTS),
        choose.random() < 0.3,
        choose.random() < 0.1,
        choose.randrange(12),
        choose.choice((0.0, 0.1, 1.0, 3.0, 61.0, 601.0)),
        choose.random(),
    )


def some_sequences(count: int) -> Iterator[Sequence_]:
    """Yield as many, always the same."""
    choose = random.Random(1)
    for _ in range(count):
        yield choose.choice(CONSISTENCIES), choose.random() < 0.5, [drawn(choose) for _ in range(40)]


choices = st.builds(
    Choice,
    st.integers(0, 9),
    st.sampled_from(CONTENTS),
    st.sampled_from((0, 1, 5, -3)),
    st.sampled_from(DOUBTS),
    st.booleans(),
    st.sampled_from((False, False, False, True)),
    st.integers(0, 11),
    st.sampled_from((0.0, 0.1, 1.0, 3.0, 61.0, 601.0)),
    st.floats(0.0, 1.0),
)
sequences = st.tuples(st.sampled_from(CONSISTENCIES), st.booleans(), st.lists(choices, min_size=2, max_size=24))


def turns(sequence: Sequence_) -> Iterator[Turn]:
    """Go through the findings that `sequence` stands for."""
    consistency, is_local, some = sequence
    watching = Watching(service="web", consistency=consistency, is_local=is_local, safety_at=300.0)
    now, read = 100.0, None
    for choice in some:
        now += choice.seconds
        if choice.notice < 2:
            watching = watching.alarmed(is_rewound=choice.notice == 1)
        elif choice.notice < 5:
            watching = attrs.evolve(watching, acknowledged=watching.state.reading)
        found = _found(watching, read, choice)
        at = Moment(now, now, choice.chance)
        step = advance(watching, found, at)
        yield Turn(watching, read, found, at, step)
        watching, read = step.watching, step.read


def _found(watching: Watching, read: Read | None, choice: Choice) -> Found:
    if read is None:
        return Rested()
    if choice.kind < 3:
        return GivenUp() if choice.kind == 0 else Failed("no answer", is_connected=choice.kind == 1)
    is_cached = read.consistency == "cached"
    return Finding(
        reading(*sorted(choice.content)),
        max(1, (watching.trust.index or 10) + choice.index),
        choice.doubt,
        is_cached=is_cached,
        age_seconds=7.0 if is_cached and choice.is_behind else 0.0,
        is_streamed=choice.is_streamed
        and (is_cached or (read.index > 0 and not read.avoids_stream) or choice.kind >= LYING),
        is_early=choice.kind == 3 and read.index > 0 and not is_cached,
    )


def test_every_row_of_the_table_happens() -> None:
    seen = set()
    for sequence in some_sequences(600):
        for turn in turns(sequence):
            event, _ = watch_policy._meaning(turn.before, turn.found, turn.at)
            seen.add((turn.before.activity, event))

    assert seen == set(TRANSITIONS)


# -- laws -----------------------------------------------------------------------------------------------------


@given(sequences)
def test_a_removal_counts_only_by_an_answer_beyond_doubt_and_much_of_one_only_by_the_leaders(
    sequence: Sequence_,
) -> None:
    for turn in turns(sequence):
        now, trusted = turn.step.watching.state.reading, turn.before.trust.reading
        if turn.step.is_news and now is not None and now.doubt is None and loses(trusted, now):
            assert isinstance(turn.found, Finding)
            assert turn.found.doubt is None
            if loses_much(trusted, now):
                assert turn.before.activity in LEADER


@given(sequences)
def test_what_leaves_a_doubt_is_never_trusted(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        now = turn.step.watching
        if now.trust.reading is not turn.before.trust.reading:
            assert now.doubt is None
            assert now.state.reading is not None
            assert now.trust.reading is not None
            assert same_content(now.trust.reading, now.state.reading)
        if now.doubt is not None:
            assert now.state.trusted == turn.before.state.trusted


@given(sequences)
def test_that_consul_went_back_is_told_until_it_is_acknowledged(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        was, now = turn.before.state.reading, turn.step.watching.state.reading
        if was is not None and was.is_backwards and was is not turn.before.acknowledged:
            assert now is not None
            assert now.is_backwards


@given(sequences)
def test_an_older_state_that_is_trusted_is_told(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        was, now = turn.before.trust, turn.step.watching
        if now.trust.index < was.index:
            assert now.state.reading is not None
            assert now.state.reading.is_backwards


@given(sequences)
def test_a_failed_read_keeps_the_last_reading_in_doubt(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        if turn.step.hangs_up:
            was, now = turn.before.state.reading, turn.step.watching.state.reading
            assert turn.step.watching.state.error
            if was is not None:
                assert now is not None
                assert same_content(was, now)
                assert now.doubt is not None


@given(sequences)
def test_pauses_keep_to_the_budget_and_nothing_blocks_in_doubt(sequence: Sequence_) -> None:
    failures = 0
    for turn in turns(sequence):
        step, doubt = turn.step, turn.step.watching.doubt
        is_answer = isinstance(turn.found, Finding) and step.watching.activity is Activity.PAUSE
        if step.hangs_up:
            longest = LOCAL_SECONDS if turn.before.is_local else REMOTE_SECONDS
            assert 0.05 <= step.pause_seconds <= min(longest, 0.25 * 2**failures)
            failures += 1
        elif is_answer and step.is_news and doubt not in {None, Doubt.FILTERED}:
            assert 0.125 <= step.pause_seconds <= DOUBT_CAP_SECONDS
        if doubt not in {None, Doubt.FILTERED} and step.read is not None:
            assert step.read.index == 0


@given(sequences)
def test_after_failures_cache_and_servers_are_asked_by_turns(sequence: Sequence_) -> None:
    since: float | None = None
    for turn in turns(sequence):
        at = turn.at.seconds
        was, now = turn.before, turn.step.watching
        if turn.step.hangs_up and was.consistency == "cached":
            since = at if since is None else since
            is_noticed = at - since > watch_policy.CACHE_NOTICES_SECONDS
            assert now.is_through_cache is (not (was.is_through_cache or was.is_past_stream) and is_noticed)
        if now.state.error is None:
            since = None


@given(sequences)
def test_after_trouble_nothing_is_told_before_the_servers_were_read_past_cache_and_stream(
    sequence: Sequence_,
) -> None:
    for turn in turns(sequence):
        if turn.before.is_alarmed and isinstance(turn.found, Finding):
            assert not turn.step.is_news
            assert turn.step.watching.is_alarmed
        if turn.before.is_alarmed and isinstance(turn.found, Rested):
            assert turn.step.watching.activity in {Activity.HEAR_LEADER, Activity.LOOK_AFRESH}
            assert turn.step.read is not None
            assert (turn.step.read.consistency, turn.step.read.index) != ("cached", 0)
            assert turn.step.read.index == 0


@given(sequences)
def test_no_query_waits_for_a_stream_that_may_have_lost_the_servers(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        read, now = turn.step.read, turn.step.watching
        if read is None or now.activity is not Activity.FOLLOW or not now.is_streamed:
            continue
        if isinstance(turn.found, Rested):
            assert read.avoids_stream is now.trust.is_wary(turn.at.seconds)
        if read.avoids_stream:
            assert read.consistency != "cached"


@given(sequences)
def test_the_rights_of_a_token_are_tried_again_soon_past_cache_and_stream(sequence: Sequence_) -> None:
    for turn in turns(sequence):
        read, now = turn.step.read, turn.step.watching
        if read is not None and now.doubt is Doubt.FILTERED and now.activity is Activity.FOLLOW and read.index:
            assert read.consistency == "cached" or read.wait_seconds <= FILTERED_WAIT_SECONDS


@given(sequences)
def test_a_query_never_waits_for_the_index_of_another_source(sequence: Sequence_) -> None:
    avoided: bool | None = None
    given: set[int] = set()
    for turn in turns(sequence):
        read = turn.step.read
        if turn.before.activity is Activity.FOLLOW:
            given.clear()
        elif isinstance(turn.found, Finding):
            given.add(turn.found.index)
        if read is not None and turn.step.watching.activity is Activity.FOLLOW:
            if avoided is not None and read.avoids_stream is not avoided:
                assert read.index <= 1 or read.index in given
            avoided = read.avoids_stream


# -- each law is able to fail ---------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def much_is_not_confirmed(patch: Patch) -> None:
    patch.setattr(watch_policy, "needs_confirming", lambda *_: False)


def a_doubt_is_lost(patch: Patch) -> None:
    patch.setattr(watch_policy, "_with", lambda found, _later: found)


def a_doubted_answer_is_trusted(patch: Patch) -> None:
    patch.setattr(
        Trust, "taken", lambda trust, found, _now, **_: attrs.evolve(trust, reading=found.reading, index=found.index)
    )


def a_mark_is_given_once(patch: Patch) -> None:
    def marked(_self: Watching, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        return attrs.evolve(content, doubt=doubt, is_backwards=is_backwards)

    patch.setattr(Watching, "marked", marked)


def nothing_goes_back(patch: Patch) -> None:
    patch.setattr(Trust, "goes_back", lambda *_: False)


def a_failure_leaves_no_doubt(patch: Patch) -> None:
    marked = Watching.marked

    def unmarked(self: Watching, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        return marked(self, content, None if doubt is Doubt.AWAY else doubt, is_backwards=is_backwards)

    patch.setattr(Watching, "marked", unmarked)


def a_failure_does_not_pause(patch: Patch) -> None:
    patch.setattr(watch_policy, "SHORTEST_PAUSE_SECONDS", 0.0)


def doubt_is_asked_again_at_once(patch: Patch) -> None:
    patch.setattr(watch_policy, "_doubted_seconds", lambda *_: 0.0)


def doubt_blocks(patch: Patch) -> None:
    read = Watching.read
    patch.setattr(Watching, "read", lambda self, at: attrs.evolve(read(self, at), index=7))


def a_lost_stream_is_followed(patch: Patch) -> None:
    read = Watching.read
    patch.setattr(Watching, "read", lambda self, at: attrs.evolve(read(self, at), avoids_stream=False))


def rights_are_tried_late(patch: Patch) -> None:
    patch.setattr(watch_state, "FILTERED_WAIT_SECONDS", watch_state.UNCACHED_SECONDS)


def the_index_outlives_its_source(patch: Patch) -> None:
    due = watch_policy._due

    def kept(watching: Watching, at: Moment) -> tuple[Event, Watching]:
        event, then = due(watching, at)
        return event, attrs.evolve(then, index=watching.index)

    patch.setattr(watch_policy, "_due", kept)


def the_cache_is_never_left(patch: Patch) -> None:
    patch.setattr(Watching, "past_cache", lambda self, _now: self)


def the_cache_is_tried_at_once(patch: Patch) -> None:
    failed = watch_policy.failed

    def back(watching: Watching, error: str, at: Moment) -> Step:
        step = failed(watching, error, at)
        return attrs.evolve(step, watching=attrs.evolve(step.watching, is_direct=not watching.is_direct))

    patch.setattr(watch_policy, "failed", back)


def trouble_is_not_minded(patch: Patch) -> None:
    answered = watch_policy._answered
    patch.setattr(
        watch_policy,
        "_answered",
        lambda watching, found, at: answered(attrs.evolve(watching, is_alarmed=False), found, at),
    )


def trouble_is_read_in_the_ordinary_way(patch: Patch) -> None:
    patch.setattr(
        watch_policy, "_due", lambda watching, _at: (Event.RESTED, attrs.evolve(watching, is_alarmed=False))
    )


MISTAKES: dict[Callable[[Sequence_], None], tuple[Callable[[Patch], None], ...]] = {
    test_a_removal_counts_only_by_an_answer_beyond_doubt_and_much_of_one_only_by_the_leaders: (
        much_is_not_confirmed,
        a_doubt_is_lost,
    ),
    test_what_leaves_a_doubt_is_never_trusted: (a_doubted_answer_is_trusted,),
    test_that_consul_went_back_is_told_until_it_is_acknowledged: (a_mark_is_given_once,),
    test_an_older_state_that_is_trusted_is_told: (nothing_goes_back,),
    test_a_failed_read_keeps_the_last_reading_in_doubt: (a_failure_leaves_no_doubt,),
    test_pauses_keep_to_the_budget_and_nothing_blocks_in_doubt: (
        a_failure_does_not_pause,
        doubt_is_asked_again_at_once,
        doubt_blocks,
    ),
    test_after_failures_cache_and_servers_are_asked_by_turns: (the_cache_is_never_left, the_cache_is_tried_at_once),
    test_after_trouble_nothing_is_told_before_the_servers_were_read_past_cache_and_stream: (
        trouble_is_not_minded,
        trouble_is_read_in_the_ordinary_way,
    ),
    test_no_query_waits_for_a_stream_that_may_have_lost_the_servers: (a_lost_stream_is_followed,),
    test_the_rights_of_a_token_are_tried_again_soon_past_cache_and_stream: (rights_are_tried_late,),
    test_a_query_never_waits_for_the_index_of_another_source: (the_index_outlives_its_source,),
}


@pytest.mark.parametrize(
    ("law", "mistake"),
    [pytest.param(law, one, id=one.__name__) for law, some in MISTAKES.items() for one in some],
)
def test_a_mistake_breaks_its_law(
    law: Callable[[Sequence_], None], mistake: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    mistake(monkeypatch)
    body = law.hypothesis.inner_test  # type: ignore[attr-defined]

    with pytest.raises(AssertionError):
        deque(map(body, some_sequences(2000)), maxlen=0)
