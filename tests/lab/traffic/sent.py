"""What is known of traffic that was sent: `Sent`, with a `Request` for each of its requests.

Nobody tries again. What became of a request is one of `KINDS`:

answered     with 200, the whole of it;
refused      the connection was refused;
unprocessed  the server said that it has not taken it up, so it may be sent again: pipelined behind a response with
             `Connection: close` (RFC 9112, section 9.6), or an HTTP/2 stream above the last one that a GOAWAY
             names, or one refused with REFUSED_STREAM (RFC 9113, section 8.7);
reset        the connection was reset before the whole response was there, or while it was made (under TLS: or
             closed meanwhile);
cut          the connection was closed before the whole response was there;
timeout      no connection, or nothing more of the response, in 5 s;
5xx          answered with such a status;
other        anything else, such as another status, a wrong answer, or no free port to connect from;
ended        long ones that were under way when the cell ended, and were ended by the client: neither good nor bad.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

KINDS = ("answered", "refused", "unprocessed", "reset", "cut", "timeout", "5xx", "other", "ended")
NOT_FAILED = ("answered", "ended")
Traffic = Literal[
    "new", "kept", "pipelined", "downloads", "uploads", "websocket", "tls", "http2", "tcp", "wrk"
]  # fmt: skip
TRAFFIC: Mapping[Traffic, str] = {
    "new": "GETs, each on a new connection",
    "kept": "GETs on kept connections, which are idle for a random time between two",
    "pipelined": "four GETs at once on a kept connection, idle for a random time before the next four",
    "downloads": "GETs of bodies that take 4 to 6 s to come (the first of a client: less), each on a new connection",
    "uploads": "POSTs of bodies that take 4 to 6 s to send (the first of a client: less), each on a new connection",
    "websocket": "connections as long as the measurement, a message and its echo each 100 ms; each handshake and "
    "each message is a request; on a connection that broke between two messages the next one is lost",
    "tls": "GETs by HTTPS, each on a new connection, with a whole handshake",
    "http2": "four GETs at once on a kept HTTP/2 connection (TLS), idle for a random time before the next four",
    "tcp": "no HTTP: a line and its echo, half of the clients on a new connection each time, half on connections as "
    "long as the measurement with a line each 100 ms; one that broke between two lines loses the next",
    "wrk": "wrk 4.1 with 32 kept connections, as fast as they are answered; it does not say which server answered. "
    "*refused*: its failed writes, which connections are that were refused, and some that were reset; *cut*: its "
    "failed reads, which those are as well that were closed between two requests; *5xx*: its answers above 399",
}
DEFAULT: Sequence[Traffic] = tuple(kind for kind in TRAFFIC if kind != "wrk")
"""All that can be sent at once without being felt: wrk alone takes all that the machine has."""
QUICK: Sequence[Traffic] = ("new", "kept")


@frozen
class Request:
    """One request: when it was begun (monotonic clock, seconds), how long it took, what became of it."""

    begun: float
    seconds: float
    kind: str
    origin: str
    """Who answered it, by its own name; empty unless it was answered."""
    connected: float | None = None
    """When its connection was made, where that is when its server was chosen, and not when the request was begun."""
    bytes: int = 0
    """Of the body of a long one: that were sent or came."""
    of_bytes: int = 0
    """Of the body of a long one: all that there are."""


@frozen
class Sent:
    """All requests of one kind of traffic, and how many were begun: as many, or the account is wrong."""

    begun: int
    requests: Sequence[Request]
    closed_idle: int
    """Kept connections that were closed between two requests, which costs none, or that the server asked to close."""
    longest_seconds: float = 0.0
    """The longest time that one connection was kept."""

    def kinds(self) -> Mapping[str, int]:
        found = Counter(request.kind for request in self.requests)
        return {kind: found[kind] for kind in KINDS}


@frozen
class Summed:
    """What a tool tells that does not say what became of each request: how many of a kind, and how long they took."""

    kinds: Mapping[str, int]
    p50_ms: float
    p99_ms: float
    p999_ms: float
