"""The text of a haproxy.cfg in; its lines and sections, as HAProxy reads them, and its slots out.

A section has all lines in force in it, those of its `defaults` included. Only servers that hapsync wrote (`srvN`,
`dyn-...`) become values. The file is read where HAProxy cannot be asked, and to check that a template put the servers
into their own backend.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import attrs

from hapsync.config.schema import Config
from hapsync.haproxy.show import address_of
from hapsync.model.server import (
    AGENT_WEIGHT,
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    Observed,
    Server,
    is_ours,
    server_order,
)

HEADER = "# Written by hapsync. Changes made here are lost: edit the template and send the agent SIGHUP.\n"
"""The first line of every file that hapsync writes, and the mark of hapsync's own files."""
_SEAL = "# Checksum of what follows, to notice edits: "
SECTIONS = frozenset(
    {
        *("global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "mailers", "userlist"),
        *("cache", "program", "ring", "http-errors", "fcgi-app", "log-forward", "log-profile", "crt-store", "traces"),
    }
)
"""The words that begin a section (configuration manual 2.6 to 3.4, sections 3 to 12)."""
_PROXIES = frozenset({"frontend", "backend", "listen"})
TABLE_NAME = re.compile(r"[A-Za-z0-9_:./-]{1,256}")
"""The name of a stick table; `PEERS/NAME` is a table of a `peers` section."""
_STICKS = frozenset({"on", "match", "store-request", "store-response"})


# -- lines and words ----------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line: its words, its comment after `#`, and its number in the file, counted from 1."""

    number: int
    words: tuple[str, ...]
    comment: str

    def begins(self, *words: str) -> bool:
        """Return whether the line begins with `words`."""
        return self.words[: len(words)] == words


def word_after(words: Sequence[str], word: str, default: str = "") -> str:
    """Return the word after `word` in `words`, empty where `word` is the last one; `default` where it is missing."""
    return (*words, "")[words.index(word) + 1] if word in words else default


_line = tuple.__new__
"""This takes a third of the time of `Line(...)`."""
_ODD_BLANKS = "\r\x1c\x1d\x1e\x1f"
"""Characters that `str.split` takes for blanks and HAProxy does not; a carriage return ends a line for HAProxy."""
_PIECE = re.compile(
    r"""(?P<blank>[ \t\v\f]+) | \#(?P<comment>.*) | "(?P<double>(?:[^"\\]|\\.)*)"? | '(?P<single>[^']*)'?"""
    r"""| (?P<bare>(?:[^ \t\v\f\#"'\\]|\\[ \#"'\\]?)+)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", **dict(zip(" #\"'\\", " #\"'\\", strict=True))}


def split_line(line: str) -> tuple[Sequence[str], str]:
    """Return the words of `line` as HAProxy takes them, and its comment (configuration manual, section 2.2).

    Quotes and escapes are removed. A variable stays as written (`$NAME`, `${NAME}`), also within double quotes, where
    HAProxy inserts its value. An unclosed quote extends to the end of the line; HAProxy refuses it.
    """
    words: list[str] = []
    word: str | None = None
    for found in _PIECE.finditer(line.partition("\r")[0]):
        kind = found.lastgroup or ""
        if kind == "comment":
            return (words if word is None else [*words, word]), found[kind]
        if kind == "blank":
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + (found[kind] if kind == "single" else _unescaped(found[kind], kind == "double"))
    return (words if word is None else [*words, word]), ""


def _unescaped(text: str, in_quotes: bool) -> str:  # noqa: FBT001
    def plain(found: re.Match[str]) -> str:
        sign = found[1]
        if len(sign) > 1:
            return chr(int(sign[1:], 16))
        return "$" if in_quotes and sign == "$" else _ESCAPED.get(sign, found[0])

    return _ESCAPE.sub(plain, text) if "\\" in text else text


def _lines(text: str) -> Iterator[Line]:
    """Yield each line of `text` that has words."""
    is_odd = any(sign in text for sign in _ODD_BLANKS)
    for number, raw in enumerate(text.split("\n"), 1):  # only LF ends a line for HAProxy
        code, _, comment = raw.partition("#")
        words: Sequence[str]
        if is_odd or '"' in code or "'" in code or "\\" in code or not code.isascii():
            words, comment = split_line(raw)
        else:
            words = code.split()  # a fast path to the same result, in a tenth of the time
        if words:
            yield _line(Line, (number, tuple(words), comment))


# -- sections -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Section:
    """One section: its first line, the first word of that line, its name (empty without one), and its own lines.

    `inherited`: the lines of its `defaults`. `lacks` is the name of a missing `defaults` section, or empty. The lines
    before the first section form a section without a kind.
    """

    head: Line
    kind: str
    name: str
    own: tuple[Line, ...]
    inherited: tuple[Line, ...] = ()
    lacks: str = ""

    @property
    def is_proxy(self) -> bool:
        return self.kind in _PROXIES

    @property
    def has_servers(self) -> bool:
        """The section may have servers: it is a `backend` or a `listen` with a known name."""
        return self.kind in ("backend", "listen") and self.name != ""

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in force, the section's own last; of a setting that can stand only once, the last line counts."""
        return (*self.inherited, *self.own) if self.inherited else self.own

    def last(self, *words: str) -> Line | None:
        """Return the last line in force that begins with `words`."""
        return next((line for line in reversed(self.lines) if line.begins(*words)), None)

    def has_option(self, name: str) -> Line | None:
        """Return the line that switches `option NAME` on; None without one, or with a later `no option`."""
        kinds = (("option", name), ("no", "option", name))
        last = next((line for line in reversed(self.lines) if any(line.begins(*kind) for kind in kinds)), None)
        return last if last is not None and last.words[0] == "option" else None


def parse_sections(text: str) -> Sequence[Section]:
    """Return the sections of `text` in their order.

    A proxy inherits the lines of the `defaults` named after `from`, else of the last `defaults` before it. A
    `defaults` inherits from a named one only (configuration manual, section 4.1).
    """
    sections: list[Section] = []
    defaults: dict[str, Section] = {}
    last: Section | None = None
    for head, own in _split(text):
        kind, *words = head.words or ("",)
        source = word_after(words, "from")
        base = defaults.get(source) if source else (last if kind in _PROXIES else None)
        takes = kind in _PROXIES or kind == "defaults"
        name = words[0] if words and words[0] != "from" else ""
        lacks = source if base is None else base.lacks
        inherited = base.lines if base is not None and takes else ()
        section = Section(head, kind, name, tuple(own), inherited, lacks if takes else "")
        sections.append(section)
        if kind == "defaults":
            defaults[name] = last = section
    return sections


def _split(text: str) -> Iterator[tuple[Line, list[Line]]]:
    head, own = Line(0, (), ""), list[Line]()
    for line in _lines(text):
        if line.words[0] not in SECTIONS:
            own.append(line)
            continue
        if head.words or own:
            yield head, own
        head, own = line, []
    if head.words or own:
        yield head, own


def default_server_words(sections: Iterable[Section]) -> Mapping[str, tuple[str, ...]]:
    """Return the words that `default-server` lines in force give to each backend (or listen) of `sections`."""
    return {
        section.name: tuple(
            word for line in section.lines if line.words[0] == "default-server" for word in line.words[1:]
        )
        for section in sections
        if section.has_servers
    }


def stats_sockets(text: str) -> tuple[str, ...]:
    """Return the paths of the unix sockets that `stats socket` lines in `text` open, in their order.

    `unix-bind prefix` goes before each of them (configuration manual, section 3.1).
    """
    lines = [line for section in parse_sections(text) if section.kind == "global" for line in section.own]
    prefix = next((line.words[2] for line in lines if line.begins("unix-bind", "prefix") and line.words[2:]), "")
    named = [line.words[2] for line in lines if line.begins("stats", "socket") and line.words[2:]]
    paths = [path.removeprefix("unix@") for path in named]
    return tuple(prefix + path for path in paths if path.startswith("/"))


def start_disabled(text: str) -> frozenset[str]:
    """Return the backends (or listens) in `text` whose servers `default-server` disables."""
    states = {
        name: [word for word in words if word in ("disabled", "enabled")]
        for name, words in default_server_words(parse_sections(text)).items()
    }
    return frozenset(name for name, said in states.items() if said[-1:] == ["disabled"])


def stick_tables(sections: Iterable[Section]) -> Mapping[str, tuple[str, ...]]:
    """Return the stick tables, each once, that lead clients to servers of each backend (or listen) of `sections`.

    A `stick` line names a table after `table`, or uses the table of its own section (configuration manual,
    `stick on`). Names that cannot be sent to HAProxy are left out.
    """
    found = {}
    for section in sections:
        if section.has_servers:
            names = [
                word_after(line.words, "table") or section.name
                for line in section.lines
                if line.words[0] == "stick" and line.words[1:2] and line.words[1] in _STICKS
            ]
            found[section.name] = tuple(name for name in dict.fromkeys(names) if TABLE_NAME.fullmatch(name))
    return found


# -- files of hapsync ---------------------------------------------------------------------------------------------


def sealed(body: str) -> str:
    """Return the file that holds `body`: the header, a line with the checksum of the body, the body."""
    return f"{HEADER}{_SEAL}{_checksum(body)}\n{body}"


def is_sealed(text: str) -> bool:
    """Return whether `text` is a file of hapsync's, unchanged since it was written."""
    seal, _, body = text.removeprefix(HEADER).partition("\n")
    return text.startswith(HEADER) and seal == f"{_SEAL}{_checksum(body)}"


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def server_lines(text: str) -> Mapping[str, Sequence[Line]]:
    """Return the `server` and `server-template` lines of each backend (or listen) in `text`, those of any author.

    A backend whose name occurs twice has the lines of both. Lines without an address are left out.
    """
    found: dict[str, list[Line]] = {}
    for section in parse_sections(text):
        if section.has_servers:
            lines = (line for line in section.own if line.words[0] in ("server", "server-template"))
            found.setdefault(section.name, []).extend(line for line in lines if len(line.words) > 2)  # noqa: PLR2004
    return found


def comments_in(text: str) -> Mapping[tuple[str, Address], str]:
    """Return the comments of hapsync's servers in `text`, by backend (or listen) and address."""
    return {
        (name, server.address): line.comment.strip()
        for name, lines in server_lines(text).items()
        for line in lines
        if is_own_line(line) and (server := _server(line.words)).address is not None
    }


def skeleton(text: str) -> str:
    """Return `text` with each run of slots reduced to one line, without name, address, weight, state and comment.

    Two files made from the same template and options have the same skeleton, with any instances in their slots.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith(_SEAL):
            continue
        found = _SLOT_LINE.fullmatch(line)
        bare = f"server {found[1]}" if found else line
        if not (found and lines and lines[-1] == bare):
            lines.append(bare)
    return "\n".join(lines)


_SLOT_LINE = re.compile(
    r"[ \t]*server (?:srv[1-9][0-9]*|dyn-\S+) \S+(?: id [0-9]+)? weight [0-9]+(.*?)(?: disabled| enabled)?  #.*"
)
"""Server lines as `render` writes them."""


def enabled_servers(text: str) -> Mapping[str, int]:
    """Return the number of enabled servers, of any name, of each backend (or listen) in `text`."""
    return {name: sum("disabled" not in line.words for line in lines) for name, lines in server_lines(text).items()}


def is_own_line(line: Line) -> bool:
    """Return whether `line` is a server line of hapsync's, with an address."""
    return line.words[0] == "server" and len(line.words) > 2 and is_ours(line.words[1])  # noqa: PLR2004


def is_foreign_line(line: Line) -> bool:
    """Return whether `line` is the server line of a foreign server, with an address."""
    return line.words[0] == "server" and len(line.words) > 2 and not is_ours(line.words[1])  # noqa: PLR2004


def slot_names(text: str) -> Mapping[str, frozenset[str]]:
    """Return the names of the slots in `text` by backend (or listen); a fifth of the cost of their values."""
    return {
        name: frozenset(line.words[1] for line in lines if is_own_line(line))
        for name, lines in server_lines(text).items()
    }


def server_options_in(sections: Iterable[Section]) -> Mapping[str, str]:
    """Return the options of hapsync's servers by backend (or listen), from the `sections` of a file of hapsync's."""
    found: dict[str, str] = {}
    for section in sections:
        if section.has_servers and section.name not in found:
            own = (_own_options(line.words) for line in section.own if is_own_line(line))
            found.update((section.name, options) for options in own if options is not None)
    return found


def _own_options(words: Sequence[str]) -> str | None:
    """Return the options in the words of a server line as `render` writes it; None for another line."""
    place = 5 if words[3:4] == ("id",) else 3
    if words[place : place + 1] != ("weight",):
        return None
    end = len(words) - (words[-1] in ("disabled", "enabled"))
    return " ".join(words[place + 2 : end])


def discovered_in(config: Config, text: str | None) -> frozenset[str]:
    """Return the discovered backends in the file `text`; empty for a file that hapsync did not write."""
    if text is None or not config.discover or not text.startswith(HEADER):
        return frozenset()
    prefixes = tuple(one.prefix for one in config.discover.values())
    return frozenset(name for name, servers in slot_names(text).items() if name.startswith(prefixes) and servers)


def observed_from_file(text: str, backends: Collection[str], *, with_foreign: bool = False) -> Observed:
    """Return the reading of `backends` that a HAProxy started with `text` would give.

    The reading has hapsync's servers alone, or (`with_foreign`) the enabled foreign ones, too.
    """
    lines = server_lines(text)

    def backend(name: str) -> Backend:
        own = [_server(line.words) for line in lines.get(name, ()) if is_own_line(line)]
        slots = tuple(sorted(own, key=lambda slot: server_order(slot.name)))
        foreign = (line.words for line in lines.get(name, ()) if with_foreign and is_foreign_line(line))
        enabled = tuple(_server(words) for words in foreign if "disabled" not in words)
        return Backend(name, slots, enabled, exists=bool(slots))

    return Observed({name: backend(name) for name in backends})


def _server(words: Sequence[str]) -> Server:
    """Return the server with these words, without load.

    hapsync's own server is at the placeholder where its address or weight cannot be parsed. A foreign one then has no
    address, or weight 1.
    """
    name, where, *options = words[1:]
    host, _, port = where.rpartition(":")
    address, weight = address_of(host.removeprefix("[").removesuffix("]"), port), word_after(options, "weight", "1")
    if is_ours(name) and (address is None or not weight.isdecimal()):
        address, weight = PLACEHOLDER, "1"
    is_ready = "disabled" not in options
    if not is_ready and address == PLACEHOLDER and weight == str(AGENT_WEIGHT):
        weight = "1"  # a free slot's weight means nothing
    admin = AdminState.READY if is_ready else AdminState.MAINT
    return Server(name, address, admin, int(weight) if weight.isdecimal() else 1, is_up=is_ready, load=NO_LOAD)
