"""A JSON list read element by element is the list that `json.loads` reads, and what that refuses is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hapsync.consul.json_list import NotAList, elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES), st.sampled_from([None, 1, "\t"]))
def test_the_elements_are_those_that_the_library_reads(values: list[Any], indent: int | str | None) -> None:
    text = json.dumps(values, indent=indent)

    assert list(elements(f" {text}\n")) == values


@given(st.lists(st.sampled_from(["[", "]", ",", "{", "}", '"a"', ":", "1", " ", "null", "x"]), max_size=8))
def test_what_the_library_refuses_is_refused(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            list(elements(text))
        return
    if isinstance(expected, list):
        assert list(elements(text)) == expected
    else:
        with pytest.raises(NotAList):
            list(elements(text))
