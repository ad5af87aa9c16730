"""Two texts of haproxy.cfg in, the whole backends out by which alone they differ, if so: these need no reload (3.4).

A *plain* backend says nothing but `backend NAME from DEFAULTS` and its servers of ours. Only such a one is the same
whether a worker is started with it or it is added to a running one: `add backend` takes all it has from a named
`defaults` (management manual 3.4, `add backend`). One that HAProxy would die of is none either.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from hapsync.haproxy.cfg import SECTIONS, parse_file, server_options_in
from hapsync.haproxy.dangers import has_check, safe_defaults
from hapsync.haproxy.sections import default_server_words
from hapsync.model.server import is_ours, is_slot_name

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
    servers, options, defaults = parse_file(text), server_options_in(text), default_server_words(text)
    safe = {is_checked: safe_defaults(text, is_checked=is_checked) for is_checked in (False, True)}
    plain: dict[str, PlainBackend] = {}
    rest: list[tuple[str, ...]] = []
    for head, body in _sections(text):
        name = head[1] if len(head) > 1 else ""
        is_plain = (
            head[0] == "backend"
            and len(head) == _HEAD_WORDS
            and head[2] == "from"
            and all(_is_server_of_ours(words) for words in body)
            and bool(servers.get(name))
            and name in options
            # `add server` does not heed them.
            and not defaults.get(name)
            and head[3] in safe[has_check(options[name])]
        )
        if is_plain and name not in plain:
            slots = tuple(one.server.name for one in servers[name] if is_slot_name(one.server.name))
            plain[name] = PlainBackend(name, head[3], slots, options[name])
            continue
        rest.append(head)
        for words in body:
            bare = ("server", options.get(name, "")) if _is_server_of_ours(words) else words
            if not (_is_server_of_ours(words) and rest[-1] == bare):
                rest.append(bare)
    return plain, rest


def _is_server_of_ours(words: Sequence[str]) -> bool:
    return words[0] == "server" and len(words) > 1 and is_ours(words[1])


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], Sequence[tuple[str, ...]]]]:
    """Yield each section's head and body in words."""
    head: tuple[str, ...] = ("",)
    body: list[tuple[str, ...]] = []
    for line in text.split("\n"):
        words = _words(line)
        if not words:
            continue
        if words[0] in SECTIONS:
            yield head, body
            head, body = words, []
        else:
            body.append(words)
    yield head, body


def _words(line: str) -> tuple[str, ...]:
    """Return the words of `line` without its comment.

    Where a quote or a backslash may hold words together, or a `#` be none that begins a comment, all after the first
    word is taken as it stands.
    """
    code = line.partition("#")[0]
    if not re.search(r"[\"'\\]", code):
        return tuple(code.split())
    return tuple(line.strip().split(None, 1))
