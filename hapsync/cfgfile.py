"""The text of a haproxy.cfg in, the slots that stand in it out.

Only what hapsync wrote itself is understood: server lines named `srvN` under a `backend` or `listen`. It serves
where HAProxy cannot be asked, and to see that a template put the servers under the backend they belong to.
"""

import re
from collections.abc import Collection, Mapping

import attrs

from hapsync.model import (
    NO_LOAD,
    PLACEHOLDER,
    SLOT_NAME,
    Address,
    AdminState,
    Backend,
    Observed,
    Server,
    canonical_host,
    slot_number,
)

HEADER = "# Written by hapsync. Changes made here are lost: edit the template and send the agent SIGHUP.\n"
"""The first line of every file hapsync writes, by which it knows its own."""
SECTIONS = frozenset(
    {
        *("global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "mailers", "userlist"),
        *("cache", "program", "ring", "http-errors", "fcgi-app", "log-forward", "log-profile", "crt-store", "traces"),
    }
)
"""The words that begin a section (configuration manual 2.6 to 3.4, sections 3 to 12)."""


@attrs.frozen
class FileServer:
    """One server line of ours; `comment` is what stands behind its `#`, as it stands."""

    server: Server
    comment: str


def parse_file(text: str) -> Mapping[str, tuple[FileServer, ...]]:
    """Return the slots in `text` by backend (or listen), sorted by number; a backend without any is there, empty."""
    found: dict[str, list[FileServer]] = {}
    section: list[FileServer] | None = None
    for line in text.split("\n"):  # only LF ends a line for HAProxy
        code, _, comment = line.partition("#")
        words = code.split()
        if not words:
            continue
        if words[0] in SECTIONS:
            in_backend = words[0] in ("backend", "listen") and len(words) > 1
            section = found.setdefault(words[1], []) if in_backend else None
        elif words[0] == "server" and section is not None and len(words) > 2:  # noqa: PLR2004
            server = _server(words)
            if server is not None:
                section.append(FileServer(server, comment.strip()))
    return {
        name: tuple(sorted(servers, key=lambda one: slot_number(one.server.name))) for name, servers in found.items()
    }


def skeleton(text: str) -> str:
    """Return `text` with each run of slots as one line without name, address, weight, state and comment.

    Two files made from the same template and options have the same skeleton, whatever their slots hold.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        found = _SLOT_LINE.fullmatch(line)
        bare = f"server {found[1]}" if found else line
        if not (found and lines and lines[-1] == bare):
            lines.append(bare)
    return "\n".join(lines)


_SLOT_LINE = re.compile(r"[ \t]*server srv[1-9][0-9]* \S+ weight [0-9]+(.*?)(?: disabled)?  #.*")
"""As `render` writes them."""


def enabled_servers(text: str) -> Mapping[str, int]:
    """Return how many servers, of whatever name, each backend (or listen) in `text` starts with enabled."""
    found: dict[str, int] = {}
    section: str | None = None
    for line in text.split("\n"):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] in SECTIONS:
            section = words[1] if words[0] in ("backend", "listen") and len(words) > 1 else None
        elif words[0].startswith("server") and section is not None and "disabled" not in words:
            found[section] = found.get(section, 0) + 1
    return found


def slot_names(text: str) -> Mapping[str, frozenset[str]]:
    """Return the names of the slots in `text` by backend (or listen); a fifth of the cost of `parse_file`."""
    found: dict[str, set[str]] = {}
    section: set[str] | None = None
    for line in text.split("\n"):
        words = line.partition("#")[0].split(None, 2)
        if not words:
            continue
        if words[0] == "server":
            if section is not None and len(words) > 2 and SLOT_NAME.fullmatch(words[1]):  # noqa: PLR2004
                section.add(words[1])
        elif words[0] in SECTIONS:
            in_backend = words[0] in ("backend", "listen") and len(words) > 1
            section = found.setdefault(words[1], set()) if in_backend else None
    return {name: frozenset(names) for name, names in found.items()}


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
    if not SLOT_NAME.fullmatch(name):
        return None
    try:
        host, _, port = where.rpartition(":")
        address = Address(canonical_host(host.removeprefix("[").removesuffix("]")), int(port))
        weight = int(options[options.index("weight") + 1]) if "weight" in options else 1
    except (ValueError, IndexError):
        address, weight = PLACEHOLDER, 1
    disabled = "disabled" in options
    return Server(
        name,
        address,
        AdminState.MAINT if disabled else AdminState.READY,
        weight,
        is_up=not disabled,
        load=NO_LOAD,
    )
