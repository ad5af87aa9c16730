"""The text of a haproxy.cfg in, the slots that stand in it out.

Only what hapsync wrote itself is understood: its server lines (`srvN`, `dyn-...`) under a `backend` or `listen`. It
serves where HAProxy cannot be asked, and to see that a template put the servers under the backend they belong to.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import attrs

from hapsync.model.server import (
    AGENT_WEIGHT,
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    Observed,
    Server,
    canonical_host,
    is_ours,
    server_order,
)

HEADER = "# Written by hapsync. Changes made here are lost: edit the template and send the agent SIGHUP.\n"
"""The first line of every file hapsync writes, by which it knows its own."""
_SEAL = "# Checksum of what follows, to notice edits: "
SECTIONS = frozenset(
    {
        *("global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "mailers", "userlist"),
        *("cache", "program", "ring", "http-errors", "fcgi-app", "log-forward", "log-profile", "crt-store", "traces"),
    }
)
"""The words that begin a section (configuration manual 2.6 to 3.4, sections 3 to 12)."""


def sealed(body: str) -> str:
    """Return the file that holds `body`: the header, a line with the checksum of the body, the body."""
    return f"{HEADER}{_SEAL}{_checksum(body)}\n{body}"


def is_sealed(text: str) -> bool:
    """Return whether `text` is a file as hapsync wrote it, and nobody changed it since."""
    seal, _, body = text.removeprefix(HEADER).partition("\n")
    return text.startswith(HEADER) and seal == f"{_SEAL}{_checksum(body)}"


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


@attrs.frozen
class FileServer:
    """One server line of ours; `comment` is what stands behind its `#`, as it stands."""

    server: Server
    comment: str


def backend_lines(text: str) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield each line of a `backend` (or `listen`) in `text` that says something, its head first.

    That is its number, counted from 1, the backend's name, the line, and its words without the comment.
    """
    name: str | None = None
    for number, line in enumerate(text.split("\n"), 1):  # only LF ends a line for HAProxy
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] in SECTIONS:
            name = words[1] if words[0] in ("backend", "listen") and len(words) > 1 else None
        if name is not None:
            yield number, name, line, words


def parse_file(text: str) -> Mapping[str, tuple[FileServer, ...]]:
    """Return the slots in `text` by backend (or listen), sorted by number; a backend without any is there, empty."""
    found: dict[str, list[FileServer]] = {}
    for _, name, line, words in backend_lines(text):
        section = found.setdefault(name, [])
        server = _server(words) if words[0] == "server" and len(words) > 2 else None  # noqa: PLR2004
        if server is not None:
            section.append(FileServer(server, line.partition("#")[2].strip()))
    return {
        name: tuple(sorted(servers, key=lambda one: server_order(one.server.name))) for name, servers in found.items()
    }


def skeleton(text: str) -> str:
    """Return `text` with each run of slots as one line without name, address, weight, state and comment.

    Two files made from the same template and options have the same skeleton, whatever their slots hold.
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
"""As `render` writes them."""


def enabled_servers(text: str) -> Mapping[str, int]:
    """Return how many servers, of whatever name, each backend (or listen) in `text` starts with enabled."""
    return Counter(
        name for _, name, _, words in backend_lines(text) if words[0].startswith("server") and "disabled" not in words
    )


def slot_names(text: str) -> Mapping[str, frozenset[str]]:
    """Return the names of the slots in `text` by backend (or listen); a fifth of the cost of `parse_file`."""
    found: dict[str, set[str]] = {}
    for _, name, _, words in backend_lines(text):
        section = found.setdefault(name, set())
        if words[0] == "server" and len(words) > 2 and is_ours(words[1]):  # noqa: PLR2004
            section.add(words[1])
    return {name: frozenset(names) for name, names in found.items()}


def server_options_in(text: str) -> Mapping[str, str]:
    """Return the options of the servers of ours in `text`, a file that hapsync wrote, by backend (or listen)."""
    found: dict[str, str] = {}
    for _, name, line, _ in backend_lines(text):
        if name not in found and (ours := _SLOT_LINE.fullmatch(line)):
            found[name] = " ".join(ours[1].split())
    return found


def observed_from_file(text: str, backends: Collection[str]) -> Observed:
    """Return the reading a HAProxy started with `text` would give of `backends`."""
    found = parse_file(text)
    return Observed(
        {
            name: Backend(name, tuple(one.server for one in found.get(name, ())), exists=bool(found.get(name)))
            for name in backends
        }
    )


def _server(words: list[str]) -> Server | None:
    name, where, *options = words[1:]
    if not is_ours(name):
        return None
    try:
        host, _, port = where.rpartition(":")
        address = Address(canonical_host(host.removeprefix("[").removesuffix("]")), int(port))
        weight = int(options[options.index("weight") + 1]) if "weight" in options else 1
    except (ValueError, IndexError):
        address, weight = PLACEHOLDER, 1
    disabled = "disabled" in options
    if disabled and address == PLACEHOLDER and weight == AGENT_WEIGHT:
        weight = 1  # of a free slot it says nothing
    return Server(
        name,
        address,
        AdminState.MAINT if disabled else AdminState.READY,
        weight,
        is_up=not disabled,
        load=NO_LOAD,
    )
