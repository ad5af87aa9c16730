"""Two texts of haproxy.cfg in, the whole backends out by which alone they differ, if so: these need no reload (3.4).

A *plain* backend says nothing but `backend NAME from DEFAULTS` and its servers of ours. Only such a one is the same
whether a worker is started with it or it is added to a running one: `add backend` takes all it has from a named
`defaults` (management manual 3.4, `add backend`). One that HAProxy would die of is none either.
"""

from collections.abc import Mapping, Sequence

import attrs

from hapsync.haproxy.cfg import Line, default_server_words, is_own_line, parse_sections, server_options_in
from hapsync.haproxy.dangers import has_check, safe_defaults
from hapsync.model.server import is_slot_name, server_order

HAS_BACKENDS = (3, 4)
"""From this version on `add backend` is there, and not experimental."""
_HEAD_WORDS = 4
"""`backend NAME from DEFAULTS`."""


@attrs.frozen
class PlainBackend:
    """A plain backend as a file has it: the `defaults` it names, its slots' names, and the options of its servers."""

    name: str
    defaults: str
    slots: tuple[str, ...] = attrs.field(eq=False)
    options: str


@attrs.frozen
class Difference:
    """The plain backends that one file has and the other lacks; all else is the same in both."""

    new: tuple[PlainBackend, ...] = ()
    gone: tuple[PlainBackend, ...] = ()


def difference(current: str, wanted: str) -> Difference | None:
    """Return how the file `wanted` differs from `current`; None where it is by more than whole plain backends.

    Comments, blank lines and what stands on server lines of ours by the live state do not count.
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

    Servers of ours count there without what changes with the live state, and a run of them as one line.
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
            # `add server` does not heed them.
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
    """Return what counts of `line`, one of the lines `raw` of its file: its words, or all of it as it stands.

    The words lack the quotes and escapes, which alone tell a variable from a plain `$`.
    """
    code = raw[line.number - 1].strip()
    is_quoted = any(sign in code for sign in "\"'\\") and any("$" in word for word in line.words)
    return (code,) if is_quoted else line.words
