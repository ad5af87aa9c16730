"""Functions that make foreign text safe to show: on a terminal, in a log line, in a comment of haproxy.cfg."""

import json

SHOWN_LENGTH = 128
"""The longest piece of foreign text shown whole; HAProxy's parser warns about very long lines."""


def shown(text: str, *, length: int = SHOWN_LENGTH) -> str:
    r"""Return `text` in printable ASCII on one line, cut to about `length` characters.

    Control characters, quotes, backslashes and everything outside ASCII become JSON escapes (`\n`, `\u00e9`),
    so the result can neither end a line or a comment nor move a terminal's cursor. An escape has up to twelve
    characters; with many of them `text` is cut sooner, so that no more than twice `length` is shown.
    """
    cut = text if len(text) <= length else text[: length - 3] + "..."
    escaped = json.dumps(cut)[1:-1]
    if len(escaped) <= 2 * length:
        return escaped
    pieces, room = [], 2 * length - 3
    for sign in text:
        piece = json.dumps(sign)[1:-1]
        room -= len(piece)
        if room < 0:
            break
        pieces.append(piece)
    return "".join(pieces) + "..."


def one_line(text: str, *, length: int = 400) -> str:
    """Return `text`, a message of hapsync's, on one line: all but printable ASCII is escaped, quotes are not."""
    flat = "; ".join(part.strip() for part in text.split("\n") if part.strip())
    cut = flat if len(flat) <= length else flat[: length - 3] + "..."
    return "".join(sign if " " <= sign <= "~" else json.dumps(sign)[1:-1] for sign in cut)


def quoted(text: str, *, length: int = SHOWN_LENGTH) -> str:
    """Return `shown(text)` between double quotes."""
    return f'"{shown(text, length=length)}"'


def reason(error: Exception) -> str:
    """Return the reason of `error`, without the number and the path that the system adds to it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def plural(count: int, noun: str) -> str:
    """Return `1 server`, `2 servers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
