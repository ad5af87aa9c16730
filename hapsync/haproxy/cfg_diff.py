"""Two texts of haproxy.cfg in, the plain backends out by which alone they differ: these need no reload (3.4).

A *plain* backend consists of `backend NAME from DEFAULTS` and servers of hapsync's. Only a plain backend is the same
whether a worker starts with it or gets it live, for `add backend` takes all settings from a named `defaults`
(management manual 3.4, `add backend`). A backend that would kill HAProxy does not count as plain.
"""

from collections.abc import Mapping, Sequence

import attrs

from hapsync.haproxy.cfg import Line, default_server_words, is_own_line, parse_sections, server_options_in
from hapsync.haproxy.dangers import has_check, safe_defaults
from hapsync.model.server import is_slot_name, server_order

_HEAD_WORDS = 4
"""`backend NAME from DEFAULTS`."""


@attrs.frozen
class PlainBackend:
    """A plain backend in a file: its `defaults`, the names of its slots, and the options of its servers."""

    name: str
    defaults: str
    slots: tuple[str, ...] = attrs.field(eq=False)
    options: str


@attrs.frozen
class Difference:
    """The plain backends in one file and not in the other; the rest of both files is the same."""

    new: tuple[PlainBackend, ...] = ()
    gone: tuple[PlainBackend, ...] = ()


def difference(current: str, wanted: str) -> Difference | None:
    """Return the difference of `wanted` from `current`; None where more than whole plain backends differ.

    Comments, blank lines and the live state on hapsync's server lines do not count.
    """
    has, rest = _taken_apart(current)
    needs, wanted_rest = _taken_apart(wanted)
    if rest != wanted_rest or any(has[name] != needs[name] for name in set(has) & set(needs)):
        return None
    new = (needs[name] for name in sorted(set(needs) - set(has)))
    gone = (has[name] for name in sorted(set(has) - set(needs)))
    return Difference(tuple(new), tuple(gone))


def plain_backends(text: str) -> Mapping[str, PlainBackend]:
    """Return the plain backends of the haproxy.cfg `text`, by name."""
    return _taken_apart(text)[0]


def _taken_apart(text: str) -> tuple[Mapping[str, PlainBackend], Sequence[tuple[str, ...]]]:
    """Return the plain backends of `text`, and the words of all other lines.

    A run of hapsync's servers counts as one line, without their live state.
    """
    sections, raw = parse_sections(text), text.split("\n")
    options, defaults = server_options_in(sections), default_server_words(sections)
    safe = {is_checked: safe_defaults(sections, is_checked=is_checked) for is_checked in (False, True)}
    plain: dict[str, PlainBackend] = {}
    rest: list[tuple[str, ...]] = []
    for section in sections:
        head, name = section.head.words, section.name
        is_plain = (
            section.kind == "backend"
            and len(head) == _HEAD_WORDS
            and head[2] == "from"
            and section.own != ()
            and all(map(is_own_line, section.own))
            and name in options
            # `add server` ignores these words.
            and not defaults.get(name)
            and head[3] in safe[has_check(options[name])]
        )
        if is_plain and name not in plain:
            slots = sorted((line.words[1] for line in section.own if is_slot_name(line.words[1])), key=server_order)
            plain[name] = PlainBackend(name, head[3], tuple(slots), options[name])
            continue
        rest.append(_compared(section.head, raw))
        for line in section.own:
            is_own = is_own_line(line)
            bare = ("server", options.get(name, "")) if is_own else _compared(line, raw)
            if not is_own or rest[-1] != bare:
                rest.append(bare)
    return plain, rest


def _compared(line: Line, raw: Sequence[str]) -> tuple[str, ...]:
    """Return the compared part of `line`, one of the lines `raw` of its file: its words, or the whole raw line.

    The words lack quotes and escapes, by which alone a variable differs from a plain `$`.
    """
    code = raw[line.number - 1].strip()
    is_quoted = any(sign in code for sign in "\"'\\") and any("$" in word for word in line.words)
    return (code,) if is_quoted else line.words
