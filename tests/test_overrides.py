"""What hapsync keeps over a restart comes back as it was, or not at all; holds and a freeze end when they should."""

import json
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.model.json_file import _canonical, _checksum, other_version
from hapsync.model.overrides import (
    VERSION,
    Freeze,
    Lost,
    Override,
    Refill,
    SavedState,
    acknowledged,
    expired,
    is_frozen,
    state_from_json,
    state_to_json,
    with_override,
    without_override,
)
from hapsync.model.server import Address, AdminState
from tests.harness.tools import ROOT

A, B = Address("10.0.0.1", 80), Address("2001:db8::1", 80)
HELD = Override("web", A, AdminState.MAINT, 100.0, 200.0, "alice", "disk is failing")
FULL = SavedState(
    Freeze(90.0, None, "bob (through sudo as root)", 'a "reason"; \\ with é'),
    (HELD, Override("api", B, AdminState.DRAIN, 100.5, None, "uid 7", "", is_releasing=True)),
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
    Override,
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
    SavedState,
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


def of_version(version: object, saved: SavedState = FULL, **more: object) -> str:
    return json.dumps({**json.loads(state_to_json(saved)), "version": version, **more})


def signed(tree: object) -> str:
    """A file that was written as it stands, whatever it holds."""
    return json.dumps({"version": VERSION, "checksum": _checksum(_canonical(tree)), "memory": tree})


# -- the file -----------------------------------------------------------------------------------------------------


@given(memories)
def test_a_memory_comes_back_as_it_was(saved: SavedState) -> None:
    text = state_to_json(saved)

    assert state_from_json(text) == saved
    assert text.isascii()
    assert text.isprintable()


def test_the_file_of_an_older_hapsync_is_read_with_all_that_it_holds() -> None:
    slot, other = Address("10.0.0.5", 8080), Address("2001:db8::5", 80)
    found = state_from_json((ROOT / "tests" / "data" / "memory-0.1.json").read_text(encoding="utf-8"))

    assert found == SavedState(
        freeze=Freeze(1700000000.5, 1700003600.5, "alice", "Consul \u00fcber Nacht \U0001f600"),
        holds=(
            Override("web", slot, AdminState.MAINT, 1700000001.25, None, "bob", 'disk "is" failing'),
            Override("web", other, AdminState.DRAIN, 1700000002.0, 1700009999.0, "alice", "", is_releasing=True),
        ),
        peaks={"api": ((12345.678, 7),), "web": ((100.5, 3), (160.25, 12))},
        refills={"web": Refill(12, 90.0, 95.5, 4), "api": Refill(3, 1.0, 2.0, 3, is_over=True)},
        boot_id="11111111-2222-3333-4444-555555555555",
    )


def test_an_empty_and_a_full_memory_come_back_as_they_were() -> None:
    for saved in (SavedState(), FULL):
        assert state_from_json(state_to_json(saved)) == saved


@given(st.data())
def test_a_changed_character_anywhere_is_damage(data: st.DataObject) -> None:
    text = state_to_json(FULL)
    place = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.characters(codec="ascii").filter(lambda one: one != text[place]))
    changed = text[:place] + sign + text[place + 1 :]

    assert state_from_json(changed) in (None, FULL)
    assert state_from_json(changed) is None or json.loads(changed) == json.loads(text)


def test_a_file_cut_short_is_damage() -> None:
    text = state_to_json(FULL)

    assert [end for end in range(len(text)) if state_from_json(text[:end]) is not None] == []


@given(st.text() | json_trees.map(json.dumps))
def test_a_text_from_anywhere_raises_nothing(text: str) -> None:
    assert state_from_json(text) is None


@given(json_trees, st.sampled_from(["", "freeze", "holds", "peaks", "refills", "boot_id"]))
def test_a_tree_from_anywhere_raises_nothing_even_with_a_right_checksum(tree: object, field: str) -> None:
    try:
        text = signed({**json.loads(state_to_json(FULL))["memory"], field: tree} if field else tree)
    except ValueError:  # NaN and infinity are no JSON
        return
    found = state_from_json(text)

    assert found is None or isinstance(found, SavedState)
    if found is not None:
        assert state_from_json(state_to_json(found)) == found


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version":1,"checksum":"","memory":' + "[" * 100_000])
def test_a_text_as_deep_as_it_is_long_raises_nothing(text: str) -> None:
    assert state_from_json(text) is None


def test_a_file_of_another_version_gives_nothing() -> None:
    assert state_from_json(json.dumps({**json.loads(state_to_json(FULL)), "version": VERSION + 1})) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved["holds"][0].update(admin="ready"),
        lambda saved: saved["holds"][0]["address"].update(host="10.0.0.1;x"),
        lambda saved: saved["holds"][0]["address"].update(host="2001:DB8::1"),
        lambda saved: saved["holds"][0]["address"].update(port=0),
        lambda saved: saved["holds"][0]["address"].update(port=65536),
        lambda saved: saved["holds"][0].update(at="nan"),
        lambda saved: saved["freeze"].update(until="inf"),
        lambda saved: saved["refills"]["web"].update(since="-inf"),
        lambda saved: saved["peaks"].update(web=[["inf", 1]]),
        lambda saved: saved["freeze"].pop("at"),
    ],
)
def test_values_that_mean_nothing_give_nothing(spoil: Callable[[object], None]) -> None:
    tree = json.loads(state_to_json(FULL))["memory"]
    assert state_from_json(signed(tree)) == FULL
    spoil(tree)

    assert state_from_json(signed(tree)) is None


# -- holds and the freeze -----------------------------------------------------------------------------------------


def test_a_hold_takes_the_place_of_another_on_the_same_server_only() -> None:
    saved = with_override(FULL, attrs.evolve(HELD, reason="new"))

    assert [hold.reason for hold in saved.holds if hold.backend == "web"] == ["new"]
    assert len(saved.holds) == 2
    assert saved.override_of("web", A) == attrs.evolve(HELD, reason="new")
    assert saved.override_of("web", B) is saved.override_of("web", None) is None
    assert without_override(saved, "web", A).holds == (FULL.holds[1],)


@given(memories, holds)
def test_a_hold_that_was_put_in_and_taken_out_leaves_the_others(saved: SavedState, hold: Override) -> None:
    key = (hold.backend, hold.address)
    deferred = with_override(saved, hold)

    assert [one for one in deferred.holds if (one.backend, one.address) == key] == [hold]
    left = without_override(deferred, *key)
    assert left.override_of(*key) is None
    assert without_override(left, *key) is left
    assert sorted(map(repr, left.holds)) == sorted(
        repr(one) for one in saved.holds if (one.backend, one.address) != key
    )


def test_a_hold_is_releasing_when_its_time_is_over_and_a_freeze_is_gone() -> None:
    saved = attrs.evolve(FULL, freeze=Freeze(90.0, 200.0, "bob", ""))

    assert expired(saved, 199.9) is saved
    assert is_frozen(saved, 199.9)
    assert not is_frozen(saved, 200.0)
    after = expired(saved, 200.0)
    assert after.freeze is None
    assert after.holds == (attrs.evolve(HELD, is_releasing=True), FULL.holds[1])
    assert expired(after, 1000.0) is after


def test_what_has_no_end_does_not_end_by_itself() -> None:
    saved = attrs.evolve(FULL, holds=(attrs.evolve(HELD, until=None),))

    assert expired(saved, 1e12) is saved
    assert is_frozen(saved, 1e12)
    assert not is_frozen(SavedState(), 0.0)


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
    text = state_to_json(SavedState(unread_version="2"))

    assert state_from_json(text) == SavedState()


def test_what_a_person_acknowledged_is_not_told_again_and_the_rest_stays() -> None:
    saved = attrs.evolve(FULL, lost=Lost(5.0, "memory.json.damaged"), unread_version="2")

    assert acknowledged(saved) == FULL
