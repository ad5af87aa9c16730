"""Requests of a command to the running agent, and replies; durations and server names as operators write them.

Any user of the agent's socket may send any bytes, so a request is made of allowed values only.
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import attrs

from hapsync.config.validate import Read, Rule, between, matching, structured
from hapsync.errors import Exit
from hapsync.model.address import parse_address
from hapsync.model.server import HAPROXY_NAME, AdminState, canonical_host
from hapsync.text import quoted

MAX_REASON = 200
"""The longest reason, in characters: `status` shows it on one line."""
MAX_SECONDS = 31 * 86400
"""The longest time of an override or a freeze. A longer one is requested without a time, until its release."""
MAX_REQUEST_BYTES = 64 * 1024

CLAIM = re.compile(r"[A-Za-z0-9_.@$-]{1,32}")
"""The name of a user that a client claims to act for."""
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNIT_WORDS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@attrs.frozen
class Target:
    """BACKEND or BACKEND/SERVER as an operator wrote it; `server` as in `OverrideServer`."""

    backend: str
    server: str | None


# -- texts of operators ----------------------------------------------------------------------------------------------


def parse_duration(text: str) -> int:
    """Return the seconds in `90s`, `30m`, `1h` or `2d`.

    Raises ValueError, with the right spelling in it, for any other text and for a time outside of 1 s to 31 days.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{quoted(text)} is no duration; write 90s, 30m, 1h or 2d")
    number, unit = found.groups()
    if not unit:
        raise ValueError(f"say the unit: {number}s, {number}m, {number}h or {number}d")
    seconds = int(number) * _UNITS[unit]
    if not 1 <= seconds <= MAX_SECONDS:
        raise ValueError(f"{text} must be from 1s to 31d; for longer, leave it out and end it yourself")
    return seconds


def duration_words(seconds: float) -> str:
    """Return whole `seconds` in words: `90 s`, `30 min`, `1 h`, `2 d`; the largest unit without a remainder."""
    whole = max(0, round(seconds))
    size, unit = next(one for one in _UNIT_WORDS if one[0] == 1 or (whole >= one[0] and whole % one[0] == 0))
    return f"{whole // size} {unit}"


def parse_reason(text: str) -> str:
    """Return `text` without blanks around it.

    Raises ValueError, with the right form in it, when the text is too long or not one printable line.
    """
    reason = text.strip(" ")
    if not reason.isprintable():
        raise ValueError("the reason must be one line of printable characters, without control characters")
    if len(reason) > MAX_REASON:
        raise ValueError(f"the reason has {len(reason)} characters; write at most {MAX_REASON}")
    return reason


def parse_target(text: str) -> Target:
    """Return the backend and the server, if there is one, in `web`, `web/srv3`, `web/10.0.0.5:80`, `web/[::1]:80`.

    Raises ValueError with the right spelling in it.
    """
    backend, slash, server = text.partition("/")
    if HAPROXY_NAME.fullmatch(backend) is None:
        raise ValueError(f"{quoted(backend)} is no backend's name; write BACKEND/SERVER, for example web/srv3")
    return Target(backend, parse_server(server) if slash else None)


def parse_server(text: str) -> str:
    """Return HAProxy's name of a server unchanged, or its address in the canonical spelling.

    Raises ValueError with the right spelling in it.
    """
    with contextlib.suppress(ValueError):
        return str(parse_address(text))
    if _is_bare_ipv6(text):
        raise ValueError(f"{quoted(text)} has no port; write [{text}]:80, with the server's port")
    if HAPROXY_NAME.fullmatch(text) is None:
        raise ValueError(
            f"{quoted(text)} is no server; write HAProxy's name of it (srv3) or its address "
            "(10.0.0.5:80, [2001:db8::1]:80)"
        )
    return text


def _is_bare_ipv6(text: str) -> bool:
    try:
        return ":" in text and bool(canonical_host(text))
    except ValueError:
        return False


# -- requests and replies -----------------------------------------------------------------------------------------


def _server(value: object) -> str:
    if not isinstance(value, str) or len(value) > 128:  # noqa: PLR2004
        raise ValueError("must be a server's name or address")
    return parse_server(value)


def _admin(value: object) -> AdminState:
    if value not in (AdminState.MAINT.value, AdminState.DRAIN.value):
        raise ValueError("must be maint or drain")
    return AdminState(value)


def _reason(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return parse_reason(value)


BackendName = Annotated[str, matching(HAPROXY_NAME.pattern, "must be 1 to 128 of A-Z a-z 0-9 _ : . -")]
ServerName = Annotated[str, Read(_server)]
"""HAProxy's name of a server, or its address as `str(Address)`."""
OverrideState = Annotated[AdminState, Read(_admin)]
Seconds = Annotated[int, between(1, MAX_SECONDS)]
ReasonText = Annotated[str, Read(_reason)]
UserName = Annotated[str, matching(f"|{CLAIM.pattern}", "must be a user's name")]
Deadline = Annotated[float, Rule(lambda value: 0 <= value < math.inf, "must be seconds of the monotonic clock")]


@attrs.frozen(kw_only=True)
class _Asked:
    """The fields of every request.

    `who`: from the client, the user it claims to act for or nothing; in the agent, the user of the request.

    `deadline`: seconds of this machine's monotonic clock. The command waits no longer, so the request is not begun
    later. None: the request may be begun as long as the connection stays.
    """

    who: UserName = ""
    deadline: Deadline | None = None


@attrs.frozen
class Apply(_Asked):
    """Make a pass over everything now; `force`: make the changes that only the guard defers, too."""

    force: bool = False


@attrs.frozen
class OverrideServer(_Asked):
    """Put a server in `admin` (MAINT or DRAIN), and keep it there for `for_seconds` (None: until its release)."""

    backend: BackendName
    server: ServerName
    admin: OverrideState
    for_seconds: Seconds | None = None
    reason: ReasonText = ""


@attrs.frozen
class ReleaseServer(_Asked):
    """End the override of a server."""

    backend: BackendName
    server: ServerName


@attrs.frozen
class ReleaseBackend(_Asked):
    """Make, this once, the changes in a backend that the guard defers; overrides stay."""

    backend: BackendName


@attrs.frozen
class FreezeAll(_Asked):
    """Change nothing for `for_seconds` (None: until a thaw)."""

    for_seconds: Seconds | None = None
    reason: ReasonText = ""


@attrs.frozen
class Thaw(_Asked):
    """Go on after a freeze.

    `acknowledge`: keep a freeze, and go on after overrides were lost or cannot be read.
    """

    acknowledge: bool = False


Request = Apply | OverrideServer | ReleaseServer | ReleaseBackend | FreezeAll | Thaw


@attrs.frozen
class BadRequest:
    """A text that is no request, and the reason: one line of printable ASCII."""

    why: str


@attrs.frozen
class Reply:
    """The outcome of a request: lines for the operator, and the exit code of the command."""

    is_ok: bool
    exit_code: int
    lines: tuple[str, ...]

    @classmethod
    def done(cls, *lines: str) -> "Reply":
        return cls(is_ok=True, exit_code=Exit.DONE, lines=lines)

    @classmethod
    def not_done(cls, *lines: str) -> "Reply":
        return cls(is_ok=False, exit_code=Exit.NOT_DONE, lines=lines)

    @classmethod
    def cannot_tell(cls, *lines: str) -> "Reply":
        return cls(is_ok=False, exit_code=Exit.CANNOT_TELL, lines=lines)

    @classmethod
    def wrong(cls, *lines: str) -> "Reply":
        return cls(is_ok=False, exit_code=Exit.WRONG_USAGE, lines=lines)


# -- over the socket ----------------------------------------------------------------------------------------------

_KINDS: Mapping[str, type[Any]] = {
    "apply": Apply,
    "hold": OverrideServer,
    "release": ReleaseServer,
    "release_backend": ReleaseBackend,
    "freeze": FreezeAll,
    "thaw": Thaw,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}


def request_to_json(request: Request) -> str:
    """Return `request` as one line of ASCII."""
    fields = attrs.asdict(request)
    if isinstance(request, OverrideServer):
        fields["admin"] = request.admin.value
    return json.dumps({"ask": _WORDS[type(request)], **fields})


def request_from_json(text: str) -> Request | BadRequest:
    """Return the request in `text`, with each field checked, or the error in it; raises nothing."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return BadRequest("not JSON")
    if not isinstance(tree, dict):
        return BadRequest("not a JSON object")
    word = tree.pop("ask", None)
    kind = _KINDS.get(word) if isinstance(word, str) else None
    if kind is None:
        return BadRequest("`ask` must be one of " + ", ".join(_KINDS))
    unknown = sorted(set(tree) - {field.name for field in attrs.fields(kind)})
    if unknown:
        return BadRequest(f"unknown field {quoted(unknown[0], length=40)}")
    request: Request | tuple[str, ...] = structured(tree, kind)
    return BadRequest("; ".join(request)) if isinstance(request, tuple) else request


def reply_to_json(reply: Reply) -> str:
    """Return `reply` as one line of ASCII."""
    return json.dumps(attrs.asdict(reply))


def reply_from_json(text: str) -> Reply | None:
    """Return the reply in `text`; None where `text` is no reply. Raises nothing."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None
    match tree:
        case {"is_ok": bool(is_ok), "exit_code": int(code), "lines": list(lines)} if (
            type(code) is int and 0 <= code <= 255 and all(isinstance(line, str) for line in lines)  # noqa: PLR2004
        ):
            return Reply(is_ok, code, tuple(lines))
        case _:
            return None
