"""What all events of a run say together: `overview_table`, `verdict`, and whether hapsync kept its promises."""

import math
from collections.abc import Iterator, Mapping, Sequence

from tests.lab.events import EVENTS
from tests.lab.tables import OURS, Row, duration, rate, table


def overview_table(rows: Sequence[Row]) -> Iterator[str]:
    """A row a way, over all events: what failed, how soon changes were live, and how many times hapsync's that is.

    Failures are of the events that force none.
    """
    ours = max((median for way, median in _medians(rows).items() if way.startswith(OURS)), default=None)
    yield from table(
        ("way", "failed of 1,000, none forced", "late of 1,000", "live", "times hapsync's", "workers replaced"),
        [_overview([row for row in rows if row.way == way], ours) for way in dict.fromkeys(row.way for row in rows)],
    )


def _overview(rows: Sequence[Row], ours: float | None) -> Sequence[str]:
    done = [row.measured for row in rows if row.measured]
    asked = sum(row.requests for row in rows)
    unforced = [row for row in rows if not EVENTS[row.event].forces_failures]
    late = sum(account.late for one in done for account in one.accounts.values())
    live = live_median(rows, rows[0].way)
    return (
        rows[0].way,
        rate(sum(row.failed for row in unforced), sum(row.requests for row in unforced)),
        rate(late, asked),
        "-" if live is None else duration(live),
        "-" if live is None or ours is None or rows[0].is_ours else f"{live / ours:.1f}",
        str(sum(one.costs.workers_replaced for one in done)),
    )


def _medians(rows: Sequence[Row]) -> Mapping[str, float]:
    ways = dict.fromkeys(row.way for row in rows)
    return {way: median for way in ways if (median := live_median(rows, way)) is not None}


def verdict(rows: Sequence[Row]) -> str:
    """How fast the best peer and hapsync are, in a sentence; empty without changes of both that came about."""
    found = _medians(rows)
    peers = {way: seconds for way, seconds in found.items() if not way.startswith(OURS)}
    ours = {way: seconds for way, seconds in found.items() if way.startswith(OURS)}
    if not peers or not ours:
        return ""
    peer, own = min(peers, key=peers.__getitem__), max(ours, key=ours.__getitem__)
    return (
        f"Best peer's median change-to-live: {duration(peers[peer])} ({peer}); hapsync: {duration(ours[own])} "
        f"({own}, the slower of its ways); {peers[peer] / ours[own]:.1f} times faster."
    )


def broken(rows: Sequence[Row]) -> Sequence[str]:
    """What hapsync promises and did not keep, in the events that force no failure; a sentence each.

    It loses no request there, and replaces no worker.
    """
    return [
        f"{row.way}, {row.event}: {row.failed} requests failed, "
        f"{row.measured.costs.workers_replaced} workers replaced"
        for row in rows
        if row.is_ours and row.measured and not EVENTS[row.event].forces_failures
        if row.failed or row.measured.costs.workers_replaced
    ]


def live_median(rows: Sequence[Row], way: str) -> float | None:
    """Of its changes in all events, of which each weighs alike, however many changes it has; None where it has none.

    A change that never came about took longer than all others; None, too, where the median is such a one.
    """
    delays = [row.measured.live for row in rows if row.way == way and row.measured]
    weighed = sorted(
        (one, 1 / (len(delay.seconds) + delay.missed))
        for delay in delays
        for one in (*delay.seconds, *[math.inf] * delay.missed)
    )
    passed, half = 0.0, sum(weight for _, weight in weighed) / 2
    for seconds, weight in weighed:
        passed += weight
        if passed >= half * (1 - 1e-9):
            return None if math.isinf(seconds) else seconds
    return None
