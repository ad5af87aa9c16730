"""Tables in Markdown of what was measured, a row a way: `summary_table`, `failures_table`, `latency_table`."""

from collections.abc import Iterator, Sequence

from attrs import frozen

from tests.lab.account import Account
from tests.lab.cell import Delays, Measured
from tests.lab.client import Traffic

OURS = "hapsync"
"""How the names of hapsync's ways begin."""


@frozen
class Row:
    """A way in an event: what was measured, or the error that it ended with."""

    way: str
    event: str
    measured: Measured | None
    error: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.way.startswith(OURS)

    @property
    def requests(self) -> int:
        return 0 if self.measured is None else sum(one.requests for one in self.measured.accounts.values())

    @property
    def failed(self) -> int:
        return 0 if self.measured is None else sum(one.failed for one in self.measured.accounts.values())

    @property
    def failed_per_thousand(self) -> float:
        return 1000 * self.failed / max(self.requests, 1)


def summary_table(rows: Sequence[Row]) -> Iterator[str]:
    """A row a way, with all that is measured but what each kind of traffic saw; of one event."""
    has_outage = any(row.measured and row.measured.outage for row in rows)
    yield from table(
        (
            "way",
            "failed of 1,000",
            "late of 1,000",
            "live",
            "gone",
            *(("answers again", "right again") if has_outage else ()),
            "longest connection",
            "workers: new / most",
            "memory: workers / tool",
            "tool CPU",
            "asked: a minute",
            "servers: a minute",
        ),
        [_summary(row, has_outage=has_outage) for row in rows],
    )


def _summary(row: Row, *, has_outage: bool) -> Sequence[str]:
    one = row.measured
    if one is None:
        said = (row.error or "").strip().splitlines() or [""]
        return (row.way, f"WENT WRONG: {said[-1]}".replace("|", "/"))
    late = sum(account.late for account in one.accounts.values())
    minutes = one.seconds / 60
    outage = one.outage
    right = "-" if outage is None or outage.right_seconds is None else duration(outage.right_seconds)
    if outage is not None and outage.is_right_at_once:
        right = "at once"
    again = ("-" if outage is None else duration(outage.answers_seconds), right) if has_outage else ()
    return (
        row.way,
        rate(row.failed, row.requests),
        rate(late, row.requests),
        delays(one.live),
        delays(one.gone),
        *again,
        _longest(one),
        f"{one.costs.workers_replaced} / {one.costs.workers_peak}",
        f"{_mebibytes(one.costs.workers_peak_bytes)} / {_mebibytes(one.costs.tool_peak_bytes)}",
        f"{100 * one.costs.tool_cpu_seconds / one.seconds:.1f} %",
        f"{one.asked.requests / minutes:,.0f}, {one.asked.bytes / minutes / 1000:,.0f} kB",
        f"{one.asked.server_requests / minutes:,.0f}, {one.asked.server_bytes / minutes / 1000:,.0f} kB",
    )


def _longest(one: Measured) -> str:
    seconds = max((account.longest_seconds for account in one.accounts.values()), default=0.0)
    return f"{seconds:.1f} of {one.seconds:.1f} s" if seconds else "-"


def failures_table(rows: Sequence[Row]) -> Iterator[str]:
    """How many failed of how many, of each kind of traffic, and of what kind the failures are."""
    kinds = traffic_of(rows)
    yield from table(
        ("way", *kinds), [(row.way, *(_failures(row, kind) for kind in kinds)) for row in rows if row.measured]
    )


def _failures(row: Row, kind: Traffic) -> str:
    account = _account(row, kind)
    if account is None:
        return ""
    told = ", ".join(f"{count} {how}" for how, count in account.failures.items())
    return f"{account.failed:,} of {account.requests:,}" + (f" ({told})" if told else "")


def latency_table(rows: Sequence[Row]) -> Iterator[str]:
    """Milliseconds of each kind of traffic: median / 99th / 99.9th percentile."""
    kinds = traffic_of(rows)
    yield from table(
        ("ms, 50 / 99 / 99.9 %", *kinds),
        [(row.way, *(_latency(row, kind) for kind in kinds)) for row in rows if row.measured],
    )


def _latency(row: Row, kind: Traffic) -> str:
    one = _account(row, kind)
    return "" if one is None else f"{one.p50_ms:.1f} / {one.p99_ms:.1f} / {one.p999_ms:.1f}"


def _account(row: Row, kind: Traffic) -> Account | None:
    return None if row.measured is None else row.measured.accounts.get(kind)


def traffic_of(rows: Sequence[Row]) -> Sequence[Traffic]:
    """All kinds of traffic that were measured."""
    return tuple(dict.fromkeys(kind for row in rows if row.measured for kind in row.measured.accounts))


def delays(some: Delays) -> str:
    """Median, 99th percentile and longest of those that came about, and how many did not."""
    ordered = sorted(some.seconds)
    found = []
    if ordered:
        picked = (ordered[(len(ordered) - 1) // 2], ordered[round(0.99 * (len(ordered) - 1))], ordered[-1])
        found.append(" / ".join(map(duration, picked)))
    if some.missed:
        found.append(f"{some.missed} never")
    return "; ".join(found) or "-"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def rate(count: int, of: int) -> str:
    """Of a thousand, and how many there were."""
    if not count:
        return "0"
    return f"{1000 * count / max(of, 1):.2f} ({count:,})"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count else "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; a row that is too short is filled up."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join((*row, *[''] * (len(header) - len(row))))} |"
