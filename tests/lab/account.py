"""What became of all requests of one kind of traffic, in figures."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from tests.lab.traffic.sent import NOT_FAILED, Request, Sent, Summed, Traffic


class AccountError(AssertionError):
    """Requests were begun of which nobody knows what became."""


@frozen
class Account:
    """The requests of one kind of traffic."""

    requests: int
    kinds: Mapping[str, int]
    late: int
    """Answered by a server that Consul did not have as one that serves when it was chosen: that is when the request
    was begun, or its connection made where that has one server for good (WebSocket, TCP)."""
    closed_idle: int
    """Kept connections that were closed between two requests, or that the server asked to close: no failures."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    longest_seconds: float = 0.0
    """The longest time that one connection was kept; 0 where that is not known."""
    bytes: int = 0
    """Of the bodies of long ones, that came or were sent."""
    lost_at_fraction: float | None = None
    """How far long ones had come that failed on their way: the median, from 0 to 1; None where there are none."""

    @classmethod
    def of(cls, sent: Sent, is_away: Callable[[str, float], bool]) -> "Account":
        """The account of what was sent; `is_away` tells whether a server, by its name, was not in Consul at a time.

        Raises `AccountError` where requests are missing from it.
        """
        if sent.begun != len(sent.requests):
            raise AccountError(f"{sent.begun} requests were begun, and {len(sent.requests)} are accounted for")
        answered = sorted(request.seconds for request in sent.requests if request.kind == "answered")
        return cls(
            requests=sent.begun,
            kinds=sent.kinds(),
            late=sum(
                is_away(request.origin, request.begun if request.connected is None else request.connected)
                for request in sent.requests
            ),
            closed_idle=sent.closed_idle,
            longest_seconds=round(sent.longest_seconds, 2),
            bytes=sum(request.bytes for request in sent.requests),
            lost_at_fraction=_lost_at(sent.requests),
            p50_ms=_milliseconds(answered, 0.5),
            p99_ms=_milliseconds(answered, 0.99),
            p999_ms=_milliseconds(answered, 0.999),
        )

    @classmethod
    def summed(cls, told: Summed) -> "Account":
        """The account of what a tool told, which does not know servers."""
        return cls(
            requests=sum(told.kinds.values()),
            kinds=told.kinds,
            late=0,
            closed_idle=0,
            p50_ms=told.p50_ms,
            p99_ms=told.p99_ms,
            p999_ms=told.p999_ms,
        )

    @property
    def failures(self) -> Mapping[str, int]:
        """Those that were not answered, by kind, without those that the clients ended; only kinds there are."""
        return {kind: count for kind, count in self.kinds.items() if kind not in NOT_FAILED and count}

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def accounts(
    told: Mapping[Traffic, Sent | Summed], is_away: Callable[[str, float], bool]
) -> Mapping[Traffic, Account]:
    """The account of each kind of traffic; as `Account.of`."""
    return {
        kind: Account.of(one, is_away) if isinstance(one, Sent) else Account.summed(one) for kind, one in told.items()
    }


def _lost_at(requests: Sequence[Request]) -> float | None:
    fractions = [one.bytes / one.of_bytes for one in requests if one.kind not in NOT_FAILED and one.of_bytes]
    return round(statistics.median(fractions), 3) if fractions else None


def _milliseconds(ordered: Sequence[float], part: float) -> float:
    """The percentile of what is in order; 0 where there is nothing."""
    return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000, 2) if ordered else 0.0
