"""Which answers of Consul may take something away, and how much of one is asked twice."""

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.consul.evidence import (
    age_seconds,
    evidence,
    is_rewritten,
    is_streamed,
    loses,
    loses_much,
    loses_silently,
    needs_confirming,
    same_content,
)
from hapsync.model.catalog import Doubt, Instance, Quarantined, Reading
from hapsync.model.server import Address, CheckStatus

HEADERS = ("x-consul-knownleader", "x-consul-lastcontact", "age", "x-consul-results-filtered-by-acls")


def reading(*numbers: int, status: CheckStatus = CheckStatus.PASSING, doubt: Doubt | None = None) -> Reading:
    instances = (Instance(f"n{number}", f"web-{number}", Address("10.0.0.1", number), status) for number in numbers)
    return Reading("web", tuple(instances), doubt=doubt)


TEN = reading(*range(1, 11))


@pytest.mark.parametrize(
    ("headers", "is_cached", "doubt"),
    [
        ({"x-consul-knownleader": "true", "x-consul-lastcontact": "0"}, False, None),
        ({"x-consul-knownleader": "true", "x-consul-lastcontact": "10000"}, False, None),
        ({"x-consul-knownleader": "true", "x-consul-lastcontact": "10001"}, False, Doubt.STALE),
        ({"x-consul-knownleader": "false", "x-consul-lastcontact": "15221"}, False, Doubt.NO_LEADER),
        ({"x-consul-knownleader": "false"}, True, Doubt.NO_LEADER),
        ({"age": "0"}, True, None),
        ({"age": "30"}, True, None),
        ({"age": "31"}, True, Doubt.STALE),
        ({"x-consul-results-filtered-by-acls": "true"}, False, Doubt.FILTERED),
        ({"x-consul-results-filtered-by-acls": "true", "age": "99"}, True, Doubt.FILTERED),
        ({"x-consul-results-filtered-by-acls": "false"}, False, None),
    ],
)
def test_bad_evidence_is_a_doubt(headers: dict[str, str], is_cached: bool, doubt: Doubt | None) -> None:  # noqa: FBT001
    assert evidence(headers, is_cached) is doubt


@pytest.mark.parametrize("is_cached", [False, True])
def test_headers_that_streaming_leaves_out_are_no_doubt(is_cached: bool) -> None:  # noqa: FBT001
    assert evidence({}, is_cached) is None


@pytest.mark.parametrize("is_cached", [False, True])
def test_what_is_streamed_says_nothing_of_the_leader_whatever_its_header_has(is_cached: bool) -> None:  # noqa: FBT001
    streamed = {"x-consul-query-backend": "streaming", "x-consul-knownleader": "false", "x-consul-lastcontact": "0"}

    assert evidence(streamed, is_cached) is None
    assert evidence({**streamed, "x-consul-query-backend": "blocking-query"}, is_cached) is Doubt.NO_LEADER
    assert evidence({**streamed, "x-consul-results-filtered-by-acls": "true"}, is_cached) is Doubt.FILTERED
    assert evidence({**streamed, "age": "31"}, is_cached=True) is Doubt.STALE


def test_the_cache_repeats_the_last_contact_of_its_last_fetch_so_only_its_age_counts() -> None:
    frozen = {"x-consul-knownleader": "true", "x-consul-lastcontact": "15000", "age": "3"}

    assert evidence(frozen, is_cached=True) is None
    assert evidence(frozen, is_cached=False) is Doubt.STALE


@pytest.mark.parametrize("text", ["", "-1", "1e3", "nan", "٣", "9" * 5000, "0x1", " 1", "yes", "1_000", "\ud800"])
def test_garbage_in_a_header_is_a_doubt_and_never_an_exception(text: str) -> None:
    assert evidence({"age": text}, is_cached=True) is Doubt.STALE
    assert evidence({"x-consul-lastcontact": text}, is_cached=False) is Doubt.STALE
    assert evidence({"x-consul-knownleader": text}, is_cached=False) is Doubt.STALE
    assert evidence({"x-consul-results-filtered-by-acls": text}, is_cached=False) is Doubt.STALE
    assert age_seconds({"age": text}) == float("inf")


@given(st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=20)), st.booleans())
def test_any_headers_at_all_give_an_answer(headers: dict[str, str], is_cached: bool) -> None:  # noqa: FBT001
    assert evidence(headers, is_cached) in {None, *Doubt}


@pytest.mark.parametrize(
    ("before", "now", "is_much"),
    [
        (None, reading(), True),
        (None, reading(1), False),
        (reading(1), reading(), True),
        (reading(), reading(), False),
        (reading(doubt=Doubt.UNCONFIRMED), reading(), True),
        (reading(), reading(1), False),
        (TEN, reading(*range(2, 11)), False),
        (TEN, reading(*range(4, 11)), False),
        (TEN, reading(*range(5, 11)), True),
        (reading(1, 2), reading(1), False),
        (reading(1, 2, 3), reading(1), True),
        (TEN, reading(*range(11, 21)), True),
        (TEN, reading(*range(1, 11), status=CheckStatus.CRITICAL), True),
        (TEN, reading(*range(1, 11), status=CheckStatus.MAINTENANCE), True),
        (TEN, reading(*range(1, 11), status=CheckStatus.WARNING), False),
        (reading(*range(1, 11), status=CheckStatus.CRITICAL), reading(1), False),
    ],
)
def test_much_is_everything_or_two_and_more_than_three_of_ten(
    before: Reading | None,
    now: Reading,
    is_much: bool,  # noqa: FBT001
) -> None:
    assert loses_much(before, now) is is_much


def test_an_address_that_another_instance_took_over_is_not_lost() -> None:
    renamed = tuple(attrs.evolve(one, instance_id=f"new-{one.instance_id}") for one in TEN.instances)

    assert not loses_much(TEN, attrs.evolve(TEN, instances=renamed))


def test_a_doubted_answer_that_takes_away_a_single_one_is_asked_again() -> None:
    nine = reading(*range(2, 11))

    assert needs_confirming(TEN, nine, Doubt.STALE)
    assert not needs_confirming(TEN, nine, None)
    assert not needs_confirming(TEN, TEN, Doubt.STALE)
    assert not needs_confirming(None, TEN, Doubt.NO_LEADER)


def test_content_is_the_same_however_it_is_trusted() -> None:
    assert same_content(TEN, attrs.evolve(TEN, doubt=Doubt.AWAY, is_backwards=True))
    assert not same_content(TEN, attrs.evolve(TEN, quarantined=(Quarantined("n", "i", "why"),)))
    assert not same_content(TEN, reading(1))


def registered(*pairs: tuple[int, int, int]) -> Reading:
    """Instances by number, each with the index it was first and last registered at."""
    made = {number: (created, modified) for number, created, modified in pairs}
    instances = (
        attrs.evolve(one, create_index=made[one.address.port][0], modify_index=made[one.address.port][1])
        for one in reading(*made).instances
    )
    return Reading("web", tuple(instances))


TWO = registered((1, 10, 10), (2, 20, 25))


@pytest.mark.parametrize(
    ("now", "is_older"),
    [
        (TWO, False),
        (registered((1, 10, 10)), False),
        (registered((1, 10, 31), (2, 20, 25), (3, 31, 31)), False),
        (registered((1, 31, 31), (2, 20, 25)), False),
        (registered((1, 10, 10), (2, 20, 25), (3, 5, 31)), False),
        (registered((1, 10, 10), (2, 20, 25), (3, 0, 0)), False),
        (registered((1, 10, 10), (2, 20, 25), (3, 12, 12)), True),
        (registered((1, 10, 10), (2, 20, 25), (3, 30, 30)), True),
        (registered((1, 10, 10), (2, 20, 22)), True),
        (registered((1, 10, 10), (2, 28, 31)), True),
    ],
)
def test_what_cannot_have_followed_a_trusted_reading_is_an_older_state(now: Reading, is_older: bool) -> None:  # noqa: FBT001
    assert is_rewritten(TWO, now, 30) is is_older
    assert not is_rewritten(None, now, 30)
    assert not is_rewritten(reading(1, 2), now, 0)


def test_an_instance_that_was_left_out_before_is_not_new() -> None:
    left_out = attrs.evolve(reading(1), quarantined=(Quarantined("n2", "web-2", "why"),))

    assert not is_rewritten(left_out, registered((1, 0, 0), (2, 12, 12)), 30)


def test_a_serving_address_that_is_gone_or_does_not_serve_any_more_is_a_loss() -> None:
    assert loses(TEN, reading(*range(2, 11)))
    assert loses(TEN, reading(*range(1, 11), status=CheckStatus.CRITICAL))
    assert not loses(TEN, reading(*range(1, 12)))
    assert not loses(None, reading())
    assert not loses(reading(1, status=CheckStatus.CRITICAL), reading())


@pytest.mark.parametrize(("backend", "expected"), [("streaming", True), ("blocking-query", False), ("", False)])
def test_consul_says_what_came_out_of_a_stream(backend: str, expected: bool) -> None:  # noqa: FBT001
    assert is_streamed({"x-consul-query-backend": backend}) is expected
    assert not is_streamed({})


class Register:
    """Consul's register of one service: its log goes on whatever is restored, as Raft's does."""

    def __init__(self) -> None:
        self.index = 10
        self.seen_index = 10
        self.entries: dict[int, tuple[int, int]] = {}

    def change(self, number: int) -> None:
        """Register instance `number`, register it again, or take it out, by turns."""
        self.index += 1
        self.seen_index = self.index
        entry = self.entries.get(number)
        if entry is not None and entry[1] > entry[0]:
            del self.entries[number]
        else:
            self.entries[number] = (self.index if entry is None else entry[0], self.index)

    def restore(self, entries: dict[int, tuple[int, int]]) -> None:
        self.index += 1
        self.entries = dict(entries)

    def reading(self) -> Reading:
        return registered(*((number, *at) for number, at in sorted(self.entries.items())))


@given(st.lists(st.integers(1, 6), max_size=30), st.lists(st.integers(1, 6), max_size=30))
def test_a_register_that_only_goes_on_never_looks_rewritten(before: list[int], after: list[int]) -> None:
    register = Register()
    for number in before:
        register.change(number)
    trusted, index = register.reading(), register.seen_index
    for number in after:
        register.change(number)

    assert not is_rewritten(trusted, register.reading(), index)


@given(
    st.lists(st.integers(1, 6), max_size=20),
    st.lists(st.integers(1, 6), min_size=1, max_size=20),
    st.lists(st.integers(7, 9), max_size=5),
)
def test_a_restored_register_looks_rewritten_unless_all_it_lost_is_what_came_since(
    before: list[int], lost: list[int], after: list[int]
) -> None:
    register = Register()
    for number in before:
        register.change(number)
    snapshot = dict(register.entries)
    for number in lost:
        register.change(number)
    trusted, index, entries = register.reading(), register.seen_index, dict(register.entries)
    register.restore(snapshot)
    for number in after:
        register.change(number)

    is_older = any(entries.get(number) != at for number, at in snapshot.items())
    assert is_rewritten(trusted, register.reading(), index) is is_older


def test_an_instance_that_turned_critical_since_is_not_lost_silently_and_any_other_is() -> None:
    before = reading(1, 2)
    critical = reading(1, 2, status=CheckStatus.CRITICAL)

    def at(index: int) -> Reading:
        first = critical.instances[0]
        return attrs.evolve(before, instances=(attrs.evolve(first, critical_index=index), before.instances[1]))

    assert not loses_silently(before, at(23), 22)
    assert loses_silently(before, at(22), 22)
    assert loses_silently(before, reading(2), 22)
    assert loses_silently(before, attrs.evolve(at(23), instances=at(23).instances[:1]), 22)
    assert not loses_silently(before, before, 22)
