"""What hapsync keeps over a restart comes back as it was, or not at all; holds and a freeze end when they should."""

import json
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.model.overrides import (
    VERSION,
    Freeze,
    Hold,
    Lost,
    Memory,
    Refill,
    _checksum,
    acknowledged,
    expired,
    is_frozen,
    memory_from_json,
    memory_to_json,
    other_version,
    with_hold,
    without_hold,
)
from hapsync.model.server import Address, AdminState

A, B = Address("10.0.0.1", 80), Address("2001:db8::1", 80)
HELD = Hold("web", A, AdminState.MAINT, 100.0, 200.0, "alice", "disk is failing")
FULL = Memory(
    Freeze(90.0, None, "bob (through sudo as root)", 'a "reason"; \\ with é'),
    (HELD, Hold("api", B, AdminState.DRAIN, 100.5, None, "uid 7", "", is_releasing=True)),
    {"web": ((5.25, 9), (6.0, 4)), "api": ()},
    {"web": Refill(9, 5.0, 6.5, 2)},
    "c0ffee",
)

times = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
addresses = st.sampled_from([A, B, Address("10.0.0.2", 65535), Address("::1", 1)])
backends = st.sampled_from(["web", "api", "a:b.c-d"])
freezes = st.builds(Freeze, times, st.none() | times, texts, texts)
holds = st.builds(
    Hold,
    backends,
    addresses,
    st.sampled_from([AdminState.MAINT, AdminState.DRAIN]),
    times,
    st.none() | times,
    texts,
    texts,
    st.booleans(),
)
counts = st.integers(0, 2**40)
losses = st.none() | st.builds(Lost, times, texts)
memories = st.builds(
    Memory,
    st.none() | freezes,
    st.lists(holds, max_size=5).map(tuple),
    st.dictionaries(backends, st.lists(st.tuples(times, counts), max_size=3).map(tuple)),
    st.dictionaries(backends, st.builds(Refill, counts, times, times, counts, st.booleans())),
    texts,
    lost=losses,
)
json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def of_version(version: object, memory: Memory = FULL, **more: object) -> str:
    return json.dumps({**json.loads(memory_to_json(memory)), "version": version, **more})


def signed(tree: object) -> str:
    """A file that was written as it stands, whatever it holds."""
    return json.dumps({"version": VERSION, "checksum": _checksum(tree), "memory": tree})


# -- the file -----------------------------------------------------------------------------------------------------


@given(memories)
def test_a_memory_comes_back_as_it_was(memory: Memory) -> None:
    text = memory_to_json(memory)

    assert memory_from_json(text) == memory
    assert text.isascii()
    assert text.isprintable()


def test_an_empty_and_a_full_memory_come_back_as_they_were() -> None:
    for memory in (Memory(), FULL):
        assert memory_from_json(memory_to_json(memory)) == memory


@given(st.data())
def test_a_changed_character_anywhere_is_damage(data: st.DataObject) -> None:
    text = memory_to_json(FULL)
    place = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.characters(codec="ascii").filter(lambda one: one != text[place]))
    changed = text[:place] + sign + text[place + 1 :]

    assert memory_from_json(changed) in (None, FULL)
    assert memory_from_json(changed) is None or json.loads(changed) == json.loads(text)


def test_a_file_cut_short_is_damage() -> None:
    text = memory_to_json(FULL)

    assert [end for end in range(len(text)) if memory_from_json(text[:end]) is not None] == []


@given(st.text() | json_trees.map(json.dumps))
def test_a_text_from_anywhere_raises_nothing(text: str) -> None:
    assert memory_from_json(text) is None


@given(json_trees, st.sampled_from(["", "freeze", "holds", "peaks", "refills", "boot_id"]))
def test_a_tree_from_anywhere_raises_nothing_even_with_a_right_checksum(tree: object, field: str) -> None:
    try:
        text = signed({**json.loads(memory_to_json(FULL))["memory"], field: tree} if field else tree)
    except ValueError:  # NaN and infinity are no JSON
        return
    found = memory_from_json(text)

    assert found is None or isinstance(found, Memory)
    if found is not None:
        assert memory_from_json(memory_to_json(found)) == found


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version":1,"checksum":"","memory":' + "[" * 100_000])
def test_a_text_as_deep_as_it_is_long_raises_nothing(text: str) -> None:
    assert memory_from_json(text) is None


def test_a_file_of_another_version_gives_nothing() -> None:
    assert memory_from_json(json.dumps({**json.loads(memory_to_json(FULL)), "version": VERSION + 1})) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda memory: memory["holds"][0].update(admin="ready"),
        lambda memory: memory["holds"][0]["address"].update(host="10.0.0.1;x"),
        lambda memory: memory["holds"][0]["address"].update(host="2001:DB8::1"),
        lambda memory: memory["holds"][0]["address"].update(port=0),
        lambda memory: memory["holds"][0]["address"].update(port=65536),
        lambda memory: memory["holds"][0].update(at="nan"),
        lambda memory: memory["freeze"].update(until="inf"),
        lambda memory: memory["refills"]["web"].update(since="-inf"),
        lambda memory: memory["peaks"].update(web=[["inf", 1]]),
        lambda memory: memory["freeze"].pop("at"),
    ],
)
def test_values_that_mean_nothing_give_nothing(spoil: Callable[[object], None]) -> None:
    tree = json.loads(memory_to_json(FULL))["memory"]
    assert memory_from_json(signed(tree)) == FULL
    spoil(tree)

    assert memory_from_json(signed(tree)) is None


# -- holds and the freeze -----------------------------------------------------------------------------------------


def test_a_hold_takes_the_place_of_another_on_the_same_server_only() -> None:
    memory = with_hold(FULL, attrs.evolve(HELD, reason="new"))

    assert [hold.reason for hold in memory.holds if hold.backend == "web"] == ["new"]
    assert len(memory.holds) == 2
    assert memory.hold_of("web", A) == attrs.evolve(HELD, reason="new")
    assert memory.hold_of("web", B) is memory.hold_of("web", None) is None
    assert without_hold(memory, "web", A).holds == (FULL.holds[1],)


@given(memories, holds)
def test_a_hold_that_was_put_in_and_taken_out_leaves_the_others(memory: Memory, hold: Hold) -> None:
    key = (hold.backend, hold.address)
    held = with_hold(memory, hold)

    assert [one for one in held.holds if (one.backend, one.address) == key] == [hold]
    left = without_hold(held, *key)
    assert left.hold_of(*key) is None
    assert without_hold(left, *key) is left
    assert sorted(map(repr, left.holds)) == sorted(
        repr(one) for one in memory.holds if (one.backend, one.address) != key
    )


def test_a_hold_is_releasing_when_its_time_is_over_and_a_freeze_is_gone() -> None:
    memory = attrs.evolve(FULL, freeze=Freeze(90.0, 200.0, "bob", ""))

    assert expired(memory, 199.9) is memory
    assert is_frozen(memory, 199.9)
    assert not is_frozen(memory, 200.0)
    after = expired(memory, 200.0)
    assert after.freeze is None
    assert after.holds == (attrs.evolve(HELD, is_releasing=True), FULL.holds[1])
    assert expired(after, 1000.0) is after


def test_what_has_no_end_does_not_end_by_itself() -> None:
    memory = attrs.evolve(FULL, holds=(attrs.evolve(HELD, until=None),))

    assert expired(memory, 1e12) is memory
    assert is_frozen(memory, 1e12)
    assert not is_frozen(Memory(), 0.0)


# -- another version, and what is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (of_version(2), "2"),
        (of_version(0), "0"),
        (of_version("2.1b"), "2.1b"),
        (of_version(VERSION), None),
        (of_version(VERSION)[:-9], None),
        (of_version(VERSION, checksum="0"), None),
        (of_version(None), None),
        (of_version(True), None),
        (of_version("\x1b[31m"), None),
        (of_version("../../etc"), None),
        (of_version("9" * 21), None),
        ('{"version": ' + "9" * 5000 + "}", None),
        ("[" * 60_000, None),
        ("", None),
    ],
    ids=lambda one: str(one)[:20],
)
def test_another_version_is_told_from_damage(text: str, version: str | None) -> None:
    assert other_version(text, VERSION) == version


def test_a_version_that_is_not_understood_is_never_written() -> None:
    text = memory_to_json(Memory(unread_version="2"))

    assert memory_from_json(text) == Memory()


def test_what_a_person_acknowledged_is_not_told_again_and_the_rest_stays() -> None:
    memory = attrs.evolve(FULL, lost=Lost(5.0, "memory.json.damaged"), unread_version="2")

    assert acknowledged(memory) == FULL
