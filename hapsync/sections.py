"""The text of a haproxy.cfg in, its sections out, each with the lines that are in force there, its defaults' too."""

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from hapsync.cfgfile import SECTIONS

TABLE_NAME = re.compile(r"[A-Za-z0-9_:./-]{1,256}")
"""Also `PEERS/NAME`, of a table in a `peers` section."""
_STICKS = frozenset({"on", "match", "store-request", "store-response"})
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
