"""The text of a haproxy.cfg in, its sections out, each with the lines that are in force there, its defaults' too."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from hapsync.haproxy.cfg import SECTIONS

TABLE_NAME = re.compile(r"[A-Za-z0-9_:./-]{1,256}")
"""Also `PEERS/NAME`, of a table in a `peers` section."""
_STICKS = frozenset({"on", "match", "store-request", "store-response"})
HASHES = frozenset({"source", "uri", "url_param", "hdr", "rdp-cookie", "hash"})
"""Algorithms that are dynamic with `hash-type consistent` only (manual, `balance`)."""
_DYNAMIC = frozenset({"roundrobin", "leastconn", "first", "random"})
_NO_BALANCE = frozenset({"disabled", "dispatch"})
_PROXIES = frozenset({"frontend", "backend", "listen"})


@attrs.frozen
class Line:
    """One line's words, and its number in the file, counted from 1."""

    number: int
    words: tuple[str, ...]

    def begins(self, *words: str) -> bool:
        """Return whether these are the line's first words."""
        return self.words[: len(words)] == words


@attrs.frozen
class Section:
    """One section: its word, its name (empty where it has none), its own lines, and those of its defaults.

    `lacks` names the `defaults` that it takes its lines from and that is not there; empty where all are.
    """

    kind: str
    name: str
    number: int
    own: tuple[Line, ...]
    inherited: tuple[Line, ...] = ()
    lacks: str = ""

    @property
    def is_proxy(self) -> bool:
        return self.kind in _PROXIES

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in force, the section's own last: of what can stand once only, the last one counts."""
        return (*self.inherited, *self.own)

    def last(self, *words: str) -> Line | None:
        """Return the last line in force that begins with `words`."""
        return next((line for line in reversed(self.lines) if line.begins(*words)), None)

    def has_option(self, name: str) -> Line | None:
        """Return the line that switches `option NAME` on; None where nothing does, or `no option` stands later."""
        on, off = self.last("option", name), self.last("no", "option", name)
        return None if on is None or (off is not None and self.lines.index(off) > self.lines.index(on)) else on


def parse_sections(text: str) -> Sequence[Section]:
    """Return the sections of `text` in their order.

    A proxy takes the lines of the `defaults` it names after `from`, else of the last one before it; a `defaults`
    takes those of the one it names, else none (configuration manual, section 4.1). Quotes and escapes stay as they
    are.
    """
    sections: list[Section] = []
    defaults: dict[str, Section] = {}
    last: Section | None = None
    for head, own in _split(text):
        kind, *words = head.words
        source = words[words.index("from") + 1] if "from" in words[:-1] else None
        base = defaults.get(source) if source is not None else (last if kind in _PROXIES else None)
        takes = kind in _PROXIES or kind == "defaults"
        name = words[0] if words and words[0] != "from" else ""
        lacks = (source or "") if base is None else base.lacks
        inherited = base.lines if base is not None and takes else ()
        section = Section(kind, name, head.number, own, inherited, lacks if takes else "")
        sections.append(section)
        if kind == "defaults":
            defaults[name] = last = section
    return sections


def default_server_words(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the words that `default-server` lines in force give to each backend (or listen) in `text`."""
    return {
        section.name: tuple(
            word for line in section.lines if line.begins("default-server") for word in line.words[1:]
        )
        for section in parse_sections(text)
        if section.kind in ("backend", "listen")
    }


def takes_servers(text: str) -> Collection[str]:
    """Return the backends (and listens) in `text` that surely take servers from `add server`, by their own lines.

    They need a dynamic load balancing and a mode that has it (2.6 to 3.4, `add server`); what depends on conditions,
    quotes or the environment is not sure.
    """
    sections = parse_sections(text)
    if any(line.words[0].startswith(".") for section in sections for line in section.own):
        return ()
    return {one.name for one in sections if one.kind in ("backend", "listen") and _is_dynamic(one)}


def _is_dynamic(section: Section) -> bool:
    mode, balance, hash_type = (section.last(word) for word in ("mode", "balance", "hash-type"))
    if section.lacks or (mode is not None and mode.words[1:] not in {("http",), ("tcp",)}):
        return False
    if any(line.words[0] in _NO_BALANCE or line.words[:2] == ("option", "transparent") for line in section.lines):
        return False
    algorithm = "roundrobin" if balance is None else balance.words[1].partition("(")[0] if balance.words[1:] else ""
    is_consistent = hash_type is not None and hash_type.words[1:2] == ("consistent",)
    return algorithm in _DYNAMIC or (algorithm in HASHES and is_consistent)


def stats_sockets(text: str) -> tuple[str, ...]:
    """Return the paths of the unix sockets that `stats socket` lines in `text` open, in their order.

    `unix-bind prefix` goes before each of them (configuration manual, section 3.1).
    """
    lines = [line.words for section in parse_sections(text) if section.kind == "global" for line in section.own]
    named = [words for words in lines if len(words) > 2]  # noqa: PLR2004
    prefix = next((words[2] for words in named if words[:2] == ("unix-bind", "prefix")), "")
    paths = [re.sub(r"[\"'\\]", "", words[2]) for words in named if words[:2] == ("stats", "socket")]
    return tuple(prefix + path.removeprefix("unix@") for path in paths if path.removeprefix("unix@").startswith("/"))


def start_disabled(text: str) -> frozenset[str]:
    """Return the backends (or listens) in `text` whose servers `default-server` disables."""
    states = {
        name: [word for word in words if word in ("disabled", "enabled")]
        for name, words in default_server_words(text).items()
    }
    return frozenset(name for name, said in states.items() if said[-1:] == ["disabled"])


def stick_tables(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the stick tables that lead clients to servers of each backend (or listen) in `text`, each once.

    A `stick` line names one after `table`, or means the one of its own section (configuration manual, `stick on`).
    Names that cannot be sent to HAProxy are left out.
    """
    found = {}
    for section in parse_sections(text):
        if section.kind in ("backend", "listen"):
            names = [
                line.words[line.words.index("table") + 1] if "table" in line.words[:-1] else section.name
                for line in section.lines
                if line.begins("stick") and line.words[1:2] and line.words[1] in _STICKS
            ]
            found[section.name] = tuple(name for name in dict.fromkeys(names) if TABLE_NAME.fullmatch(name))
    return found


def _split(text: str) -> Iterator[tuple[Line, tuple[Line, ...]]]:
    head: Line | None = None
    own: list[Line] = []
    for number, raw in enumerate(text.split("\n"), 1):
        words = tuple(raw.partition("#")[0].split())
        if not words:
            continue
        line = Line(number, words)
        if words[0] not in SECTIONS:
            own.append(line)
            continue
        if head is not None:
            yield head, tuple(own)
        head, own = line, []
    if head is not None:
        yield head, tuple(own)
