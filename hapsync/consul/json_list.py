"""The elements of a long JSON list, one by one, so that other threads come in between and only one is in memory.

`json.loads` of 16 MB lets no other thread run for a quarter of a second, and needs several times the memory.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class NotAList(TypeError):
    """It is JSON, but no list."""


def elements(text: str) -> Iterator[Any]:
    """Yield each element of the JSON list `text`.

    Raises what `json.loads` raises, after the elements before the fault; and NotAList.
    """
    at = _after_space(text, 0)
    if not text.startswith("[", at):
        json.loads(text)
        raise NotAList("not a list")
    at = _after_space(text, at + 1)
    has_more = not text.startswith("]", at)
    while has_more:
        element, at = _DECODER.raw_decode(text, at)
        yield element
        at = _after_space(text, at)
        has_more = text.startswith(",", at)
        if has_more:
            at = _after_space(text, at + 1)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    at = _after_space(text, at + 1)
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at
