"""The model as an SVG: balancers across, requests and cores up, both logarithmic, a line for each strategy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from attrs import frozen

from tests.lab.scale.model import Costs, Fleet, Load, load
from tests.lab.scale.report import SERVICES
from tests.lab.scale.strategies import STRATEGIES

COLOURS = ("#0a7d4f", "#35b779", "#7b4fc4", "#d1495b", "#8a8a8a", "#2b7bba", "#e08a1e", "#8c4a12")
BALANCERS = tuple(10 ** (step / 4) for step in range(13))
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 380, 260, 80, 40, 100


@frozen
class Panel:
    """One plot: its title, what it shows of a load, at how many changes a second, and its range in powers of ten."""

    title: str
    value: Callable[[Load], float]
    changes_per_second: float
    first_power: int
    last_power: int


PANELS = (
    Panel("requests/s on the servers, at rest", lambda one: one.requests, 0.0, -2, 6),
    Panel("requests/s, 10 changes a second", lambda one: one.requests, 10.0, -2, 6),
    Panel("cores of the servers, at rest", lambda one: one.cores, 0.0, -5, 4),
    Panel("cores of the servers, 10 changes a second", lambda one: one.cores, 10.0, -5, 4),
)


def plot(costs: Mapping[str, Costs]) -> str:
    """The SVG of the strategies in `costs`."""
    parts: list[str] = []
    for number, panel in enumerate(PANELS):
        left, top = _LEFT + number % 2 * (_WIDTH + _GAP), _TOP + number // 2 * (_HEIGHT + _GAP)
        parts += _panel(panel, costs, left, top)
    bottom = _TOP + 2 * (_HEIGHT + _GAP)
    for number, name in enumerate(costs):
        x, y = _LEFT + number % 4 * 210, bottom + number // 4 * 20
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 24}" y2="{y}" stroke="{_colour(name)}" stroke-width="3"/>')
        parts.append(_text(x + 30, y + 4, name))
    width, height = _LEFT + 2 * (_WIDTH + _GAP), bottom + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
    return "\n".join(
        (f'{head}font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", "")
    )


def _panel(panel: Panel, costs: Mapping[str, Costs], left: float, top: float) -> Iterator[str]:
    yield _text(left, top - 12, panel.title, weight="bold")
    for power in range(4):
        x = left + _WIDTH * power / 3
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + _HEIGHT}" stroke="#ddd"/>'
        yield _text(x, top + _HEIGHT + 16, f"{10**power:,}", anchor="middle")
    yield _text(left + _WIDTH / 2, top + _HEIGHT + 34, f"balancers, {SERVICES} services each", anchor="middle")
    for power in range(panel.first_power, panel.last_power + 1):
        y = top + _up(10.0**power, panel)
        yield f'<line x1="{left}" y1="{y:.1f}" x2="{left + _WIDTH}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(left - 6, y + 4, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}", anchor="end")
    for name, cost in costs.items():
        values = [
            panel.value(load(STRATEGIES[name].habits, cost, Fleet(round(number), SERVICES), panel.changes_per_second))
            for number in BALANCERS
        ]
        yield (
            f'<polyline points="{_path(values, panel, left, top)}" fill="none" stroke="{_colour(name)}" '
            f'stroke-width="2"><title>{escape(name)}</title></polyline>'
        )


def _path(values: Sequence[float], panel: Panel, left: float, top: float) -> str:
    across = [left + _WIDTH * step / (len(values) - 1) for step in range(len(values))]
    return " ".join(f"{x:.1f},{top + _up(value, panel):.1f}" for x, value in zip(across, values, strict=True))


def _up(value: float, panel: Panel) -> float:
    """How far below the top of its panel a value is, in pixels."""
    power = math.log10(value) if value > 0 else panel.first_power
    power = min(max(power, panel.first_power), panel.last_power)
    return _HEIGHT * (panel.last_power - power) / (panel.last_power - panel.first_power)


def _colour(name: str) -> str:
    return COLOURS[list(STRATEGIES).index(name) % len(COLOURS)]


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
