"""What became of all requests of one kind of traffic, in figures."""

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from tests.lab.client import Sent


class AccountError(AssertionError):
    """Requests were begun of which nobody knows what became."""


@frozen
class Account:
    """The requests of one kind of traffic."""

    requests: int
    kinds: Mapping[str, int]
    late: int
    """Answered by a server that Consul did not have as one that serves when the request was begun."""
    closed_idle: int
    p50_ms: float
    p99_ms: float
    p999_ms: float

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
            late=sum(is_away(request.origin, request.begun) for request in sent.requests if request.origin),
            closed_idle=sent.closed_idle,
            p50_ms=_milliseconds(answered, 0.5),
            p99_ms=_milliseconds(answered, 0.99),
            p999_ms=_milliseconds(answered, 0.999),
        )

    @property
    def failures(self) -> Mapping[str, int]:
        """Those that were not answered, by kind; no kind of which there are none."""
        return {kind: count for kind, count in self.kinds.items() if kind != "answered" and count}

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def _milliseconds(ordered: Sequence[float], part: float) -> float:
    """The percentile of what is in order; 0 where there is nothing."""
    return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000, 2) if ordered else 0.0
