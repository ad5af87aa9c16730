"""Plots in SVG: what failed, by way and event, and how long changes took, by way."""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tests.lab.overview import live_median
from tests.lab.tables import Row, duration

_FONT = "DejaVu Sans, Verdana, sans-serif"
_LETTER = 7.2
"""Width of a letter at 12 px, at most on average."""
_OURS, _PEER, _GRID, _INK, _FAINT = "#1f8a5b", "#c2571a", "#d9d9d9", "#222222", "#666666"
_ROW, _TOP, _MARGIN = 26, 86, 14
_COLUMN, _BAR = 128, 52
_AXIS_WIDTH = 640
_LEAST_WIDTH = 340
"""What the words above take."""
_FIRST_POWER, _LAST_POWER = -3, 2
_LEAST_SHOWN = 0.1
"""Of 1,000 requests: the shortest bar."""


def failed_plot(rows: Sequence[Row]) -> str:
    """A matrix, ways by events: a bar, on a logarithmic scale, and the figure; a dot where nothing failed."""
    ways, events = list(dict.fromkeys(row.way for row in rows)), list(dict.fromkeys(row.event for row in rows))
    left = _left(ways)
    most = max((row.failed_per_thousand for row in rows), default=0.0)
    parts = [
        _text(_MARGIN, 24, "Failed requests, of 1,000", 14),
        _text(_MARGIN, 44, "All traffic together. Bars are logarithmic.", 12, colour=_FAINT),
    ]
    for column, event in enumerate(events):
        parts.append(_text(left + column * _COLUMN, _TOP - 14, event, 12, weight="bold"))
    for number, way in enumerate(ways):
        y = _TOP + number * _ROW
        parts.append(_rule(_MARGIN, y, left + len(events) * _COLUMN))
        parts.append(_text(left - 12, y + 17, way, 12, anchor="end"))
    for row in rows:
        x, y = left + events.index(row.event) * _COLUMN, _TOP + ways.index(row.way) * _ROW
        parts += _failed_mark(row, x, y, most)
    return _drawing(
        max(left + len(events) * _COLUMN, _LEAST_WIDTH) + _MARGIN, _TOP + len(ways) * _ROW + _MARGIN, parts
    )


def _failed_mark(row: Row, x: float, y: float, most: float) -> Iterator[str]:
    if row.measured is None:
        yield _text(x, y + 17, "went wrong", 12, colour=_FAINT)
        return
    rate = row.failed_per_thousand
    colour = _OURS if row.is_ours else _PEER
    if rate == 0:
        yield f'<circle cx="{x + 4:.1f}" cy="{y + 13:.1f}" r="2.5" fill="{colour}"/>'
        yield _text(x + 13, y + 17, "0", 12)
        return
    scale = math.log10(max(most, _LEAST_SHOWN * 10) / _LEAST_SHOWN)
    length = max(_BAR * math.log10(max(rate, _LEAST_SHOWN) / _LEAST_SHOWN) / scale, 2.0)
    yield f'<rect x="{x:.1f}" y="{y + 5:.1f}" width="{length:.1f}" height="{_ROW - 10}" fill="{colour}"/>'
    yield _text(x + length + 5, y + 17, f"{rate:.2f}" if rate < 100 else f"{rate:.0f}", 12)


def live_plot(rows: Sequence[Row]) -> str:
    """A row a way: a dot for each change of all events, by how long it took, and the median."""
    ways = list(dict.fromkeys(row.way for row in rows))
    left = _left(ways)
    right = left + _AXIS_WIDTH
    bottom = _TOP + len(ways) * _ROW
    parts = [
        _text(_MARGIN, 24, "From a change in Consul to the HAProxy that serves having it (instances that come)", 14),
        _text(
            _MARGIN,
            44,
            "A dot is a change; the bar is the median, in which each event weighs alike. Logarithmic.",
            12,
            colour=_FAINT,
        ),
        _text(right + 24, _TOP - 14, "median", 12, weight="bold"),
        _text(right + 104, _TOP - 14, "never", 12, weight="bold"),
    ]
    for power in range(_FIRST_POWER, _LAST_POWER + 1):
        x = left + _along(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        parts.append(_text(x, bottom + 18, _power(power), 12, anchor="middle"))
    for number, way in enumerate(ways):
        y = _TOP + number * _ROW
        mine = [row for row in rows if row.way == way]
        seconds = [one for row in mine if row.measured for one in row.measured.live.seconds]
        missed = sum(row.measured.live.missed for row in mine if row.measured)
        median = live_median(rows, way)
        colour = _OURS if mine[0].is_ours else _PEER
        parts.append(_rule(_MARGIN, y, right + 160))
        parts.append(_text(left - 12, y + 17, way, 12, anchor="end"))
        for one in seconds:
            dot = f'cx="{left + _along(one):.1f}" cy="{y + 13:.1f}" r="4"'
            parts.append(f'<circle {dot} fill="{colour}" fill-opacity="0.35"/>')
        if median is not None:
            x = left + _along(median)
            bar = f'x1="{x:.1f}" y1="{y + 3}" x2="{x:.1f}" y2="{y + _ROW - 3}"'
            parts.append(f'<line class="median" {bar} stroke="{_INK}" stroke-width="2.5"/>')
        parts.append(_text(right + 24, y + 17, "-" if median is None else duration(median), 12))
        parts.append(_text(right + 104, y + 17, str(missed), 12))
    return _drawing(right + 174, bottom + 34, parts)


def _left(ways: Sequence[str]) -> float:
    """Where the rows' names end."""
    return _MARGIN + 12 + _LETTER * max(map(len, ways), default=0)


def _along(seconds: float) -> float:
    """Where on the axis a time is, in pixels from its begin; what is beyond it is at its end."""
    power = min(max(math.log10(seconds), _FIRST_POWER), _LAST_POWER) if seconds > 0 else _FIRST_POWER
    return _AXIS_WIDTH * (power - _FIRST_POWER) / (_LAST_POWER - _FIRST_POWER)


def _power(power: int) -> str:
    return f"{10 ** (power + 3)} ms" if power < 0 else f"{10**power} s"


def _drawing(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">'
    return "\n".join((head, '<rect class="paper" width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>", ""))


def _rule(x: float, y: float, end: float) -> str:
    return f'<line x1="{x:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}" stroke="{_GRID}"/>'


def _text(  # all of them are of the text
    x: float, y: float, words: str, size: int, *, anchor: str = "start", weight: str = "normal", colour: str = _INK
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} font-weight="{weight}" fill="{colour}">{escape(words)}</text>'
