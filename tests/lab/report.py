"""JSON lines of cells in, a table in Markdown and a plot in SVG out."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

import cattrs
from attrs import frozen

from tests.lab.account import Account
from tests.lab.cell import Delays, Measured
from tests.lab.client import TRAFFIC, Traffic
from tests.lab.events import EVENTS


@frozen
class Run:
    """What all cells of a run have in common; `ways` are described by name, `unavailable` are those left out, why."""

    command: str
    machine: str
    started: str
    hapsync: str
    interval_seconds: float
    ways: Mapping[str, str]
    unavailable: Mapping[str, str]


@frozen
class Cell:
    """One line: what was played, and either what was measured or the error that it ended with."""

    way: str
    event: str
    run: Run
    measured: Measured | None
    error: str | None = None


def line(cell: Cell) -> str:
    return json.dumps(cattrs.unstructure(cell))


def parsed(text: str) -> list[Cell]:
    """The cells of lines; cattrs' errors, and `ValueError`, where a line is none."""
    return [cattrs.structure(json.loads(one), Cell) for one in text.splitlines() if one.strip()]


COLUMNS = (
    "way",
    "event",
    "traffic",
    "requests",
    "failed",
    "answered late",
    "live after s",
    "gone after s",
    "workers replaced / peak / end",
    "p50 / p99 / p99.9 ms",
)


def table(cells: Sequence[Cell]) -> str:
    """The whole report, in Markdown; of one run, or of several."""
    return "\n".join((*_table(cells), "", *_legend(cells), *_words(cells), ""))


def _table(cells: Sequence[Cell]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for cell in cells:
        if cell.measured is None:
            said = (cell.error or "").strip().splitlines() or [""]
            told = [f"WENT WRONG: {said[-1]}".replace("|", "/"), *[""] * (len(COLUMNS) - 3)]
            yield f"| {' | '.join((cell.way, cell.event, *told))} |"
        else:
            for traffic, account in cell.measured.accounts.items():
                yield f"| {' | '.join((cell.way, cell.event, traffic, *_values(cell.measured, account)))} |"


def _values(one: Measured, account: Account) -> Sequence[str]:
    told = ", ".join(f"{count} {kind}" for kind, count in account.failures.items())
    return (
        f"{account.requests:,}",
        f"{account.failed} ({told})" if told else "0",
        str(account.late),
        _delays(one.live),
        _delays(one.gone),
        f"{one.workers_replaced} / {one.workers_peak} / {one.workers_end}",
        f"{account.p50_ms:.1f} / {account.p99_ms:.1f} / {account.p999_ms:.1f}",
    )


def _delays(delays: Delays) -> str:
    """Median and maximum of those that came about, and how many did not."""
    found = [f"{statistics.median(delays.seconds):.3f}, max {max(delays.seconds):.3f}"] if delays.seconds else []
    missed = [f"{delays.missed} never"] if delays.missed else []
    return "; ".join((*found, *missed)) or "-"


def _legend(cells: Sequence[Cell]) -> Iterator[str]:
    yield "*failed*: refused, reset, cut (closed before the whole response), timeout (5 s), 5xx or other; no request"
    yield "is tried again by the client. *answered late*: by a server that Consul did not have as serving when the"
    yield "request was begun. *live*, *gone*: from the change to the worker that answers having it; median of all"
    yield "changes of the event, maximum. *workers*: processes of HAProxy, those that are stopping as well."
    yield ""
    for traffic in _traffic(cells):
        yield f"- traffic *{traffic}*: {TRAFFIC[traffic]}"
    for name in dict.fromkeys(cell.event for cell in cells):
        yield f"- event *{name}*: {EVENTS[name].describe}"


def _traffic(cells: Sequence[Cell]) -> Sequence[Traffic]:
    """All kinds of traffic that were measured."""
    return tuple(dict.fromkeys(kind for cell in cells if cell.measured for kind in cell.measured.accounts))


def _words(cells: Sequence[Cell]) -> Iterator[str]:
    """Of each run: its ways and those left out, machine, versions and command."""
    runs: list[Run] = []
    for cell in cells:
        if cell.run not in runs:
            runs.append(cell.run)
    for run in runs:
        mine = [cell for cell in cells if cell.run == run]
        for name in dict.fromkeys(cell.way for cell in mine):
            versions = sorted({cell.measured.haproxy for cell in mine if cell.way == name and cell.measured})
            yield f"- way *{name}*: {run.ways[name]}; HAProxy {', '.join(versions) or '?'}"
        for name, why in run.unavailable.items():
            yield f"- way *{name}* is left out: {why}"
        consul = sorted({cell.measured.consul for cell in mine if cell.measured})
        yield ""
        times = f"{60 / run.interval_seconds:g} times"
        yield f"Measured {run.started} by `{run.command}` on {run.machine}; hapsync {run.hapsync}, Consul"
        yield f"{', '.join(consul) or '?'}. Ways that act by the clock do so every {run.interval_seconds:g} s: a"
        yield f"policy of 60 s compressed {times}. Uncompressed its restarts or reloads are {times} rarer, and its"
        yield f"changes take {times} longer: so long it goes on sending to servers that left."


_ROW, _LEFT, _WIDTH, _GAP = 22, 300, 330, 130
_FIRST_POWER, _LAST_POWER = -3, 2


def plot(cells: Sequence[Cell]) -> str:
    """An SVG with two bars for each cell: failed of 1,000 requests, and the median time to live."""
    rows = [(cell, cell.measured) for cell in cells if cell.measured is not None]
    most = max((_failed(measured) for _, measured in rows), default=0) or 1.0
    right = _LEFT + _WIDTH + _GAP
    parts = [
        _text(_LEFT, 20, "failed, of 1,000 requests", weight="bold"),
        _text(right, 20, "change to live, median s, logarithmic", weight="bold"),
    ]
    for power in range(_FIRST_POWER, _LAST_POWER + 1):
        x = right + _along(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="30" x2="{x:.1f}" y2="{40 + _ROW * len(rows)}" stroke="#ddd"/>')
        parts.append(_text(x, 50 + _ROW * len(rows), f"{10.0**power:g}", anchor="middle"))
    for number, (cell, measured) in enumerate(rows):
        y = 40 + _ROW * number
        colour = "#2a7" if cell.way.startswith("hapsync") else "#c63"
        parts.append(_text(_LEFT - 10, y + 12, f"{cell.way}: {cell.event}", anchor="end"))
        failed = _failed(measured)
        parts.append(_bar(_LEFT, y, _WIDTH * failed / most, colour, f"{failed:.2f}"))
        if measured.live.seconds:
            seconds = statistics.median(measured.live.seconds)
            parts.append(_bar(right, y, _along(seconds), colour, f"{seconds:.3f}"))
    width, height = right + _WIDTH + 80, 60 + _ROW * len(rows)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
    return "\n".join(
        (f'{head}font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", "")
    )


def _failed(one: Measured) -> float:
    """How many of 1,000 requests failed, of all traffic."""
    accounts = one.accounts.values()
    return 1000 * sum(account.failed for account in accounts) / max(sum(one.requests for one in accounts), 1)


def _along(seconds: float) -> float:
    """Where on the axis a time is, in pixels from its begin."""
    power = min(max(math.log10(seconds), _FIRST_POWER), _LAST_POWER) if seconds > 0 else _FIRST_POWER
    return _WIDTH * (power - _FIRST_POWER) / (_LAST_POWER - _FIRST_POWER)


def _bar(x: float, y: float, length: float, colour: str, label: str) -> str:
    rectangle = f'<rect x="{x:.1f}" y="{y}" width="{max(length, 1):.1f}" height="{_ROW - 6}" fill="{colour}"/>'
    return rectangle + _text(x + length + 5, y + 12, label)


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
