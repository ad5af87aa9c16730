"""JSON lines of cells, each with all about its run; and the whole report of them, in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from tests.lab import lines
from tests.lab.cell import Measured
from tests.lab.client import TRAFFIC
from tests.lab.events import EVENTS
from tests.lab.overview import broken, overview_table, verdict
from tests.lab.plots import failed_plot, live_plot
from tests.lab.tables import Row, failures_table, latency_table, summary_table, traffic_of


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
    rate_fraction: float = 1.0
    """How much traffic there was, as a part of the usual."""


@frozen
class Cell:
    """One line: what was played, and either what was measured or the error that it ended with."""

    way: str
    event: str
    run: Run
    measured: Measured | None
    error: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"there is no event {self.event!r}")
        if self.way not in self.run.ways:
            raise ValueError(f"its run does not say what the way {self.way!r} is")

    @property
    def row(self) -> Row:
        return Row(self.way, self.event, self.measured, self.error)


def line(cell: Cell) -> str:
    return lines.line(cell)


def parsed(text: str) -> list[Cell]:
    """The cells of lines; `LinesError` where a line is none."""
    return lines.parsed(text, Cell)


def read(file: Path) -> list[Cell]:
    """The cells of a file, one at least; `LinesError`."""
    return lines.read(file, Cell)


def written(cells: Sequence[Cell], folder: Path) -> str:
    """The whole report, in Markdown, which becomes `report.md` in `folder`, beside its plots.

    Each run has a part of its own: where it was measured, its plots, its tables, its ways.
    """
    runs: list[Run] = []
    for cell in cells:
        if cell.run not in runs:
            runs.append(cell.run)
    text = [*_legend(cells)]
    for number, run in enumerate(runs, 1):
        rows = [cell.row for cell in cells if cell.run == run]
        suffix = "" if len(runs) == 1 else f"-{number}"
        plots = {f"failed{suffix}.svg": failed_plot(rows), f"live{suffix}.svg": live_plot(rows)}
        for name, drawing in plots.items():
            (folder / name).write_text(drawing, encoding="utf-8")
        text += ["", *_run(run, rows, list(plots))]
    report = "\n".join((*text, ""))
    (folder / "report.md").write_text(report, encoding="utf-8")
    return report


def _run(run: Run, rows: Sequence[Row], plots: Sequence[str]) -> Iterator[str]:
    done = [row.measured for row in rows if row.measured is not None]
    consul = ", ".join(sorted({one.consul for one in done})) or "?"
    times = f"{60 / run.interval_seconds:g} times"
    yield f"## On {run.machine}"
    yield ""
    yield f"Measured {run.started} by `{run.command}`; hapsync {run.hapsync}, Consul {consul}."
    yield f"Ways that act by the clock do so every {run.interval_seconds:g} s: a policy of 60 s compressed {times}."
    yield f"Uncompressed, their restarts or reloads are {times} rarer, and their changes take {times} longer; so long"
    yield "they go on sending to servers that left."
    if run.rate_fraction != 1:
        yield f"**Traffic at {run.rate_fraction:g} of the usual rate**, with as many fewer connections: compare the"
        yield "ways here with each other, and no figure with one of a run at another rate."
    yield ""
    if told := verdict(rows):
        yield from (f"**{told}**", "")
    yield from _kept(rows)
    yield "All events, of which each weighs alike in *live*, its median:"
    yield ""
    yield from (*overview_table(rows), "")
    for plot in plots:
        yield f"![{Path(plot).stem}]({plot})"
        yield ""
    for event in dict.fromkeys(row.event for row in rows):
        mine = [row for row in rows if row.event == event]
        yield f"### {event}"
        yield ""
        words = EVENTS[event].describe
        yield f"{words[0].upper()}{words[1:]}."
        yield ""
        if told := verdict(mine):
            yield from (told, "")
        yield from summary_table(mine)
        if any(row.measured for row in mine):
            yield from ("", "Failed, by kind of traffic:", "", *failures_table(mine))
            yield from ("", "<details><summary>Latency of what was answered</summary>", "")
            yield from (*latency_table(mine), "", "</details>")
        yield ""
    yield "### The ways"
    yield ""
    for name in dict.fromkeys(row.way for row in rows):
        versions = sorted({row.measured.haproxy for row in rows if row.way == name and row.measured})
        yield f"- *{name}*: {run.ways[name]}; HAProxy {', '.join(versions) or '?'}"
    for name, why in run.unavailable.items():
        yield f"- *{name}* is left out: {why}"
    yield ""
    yield from _looks(done)


def _kept(rows: Sequence[Row]) -> Iterator[str]:
    """Whether hapsync kept what it promises, where it was measured."""
    mine = [row for row in rows if row.is_ours and row.measured and not EVENTS[row.event].forces_failures]
    if missed := broken(rows):
        yield from (f"- NOT KEPT: {one}" for one in missed)
    elif mine:
        count = sum(row.requests for row in mine)
        yield f"hapsync lost none of {count:,} requests in the events that force no failure, and replaced no worker."
    yield ""


def _looks(done: Sequence[Measured]) -> Iterator[str]:
    # Where nothing changed, HAProxy was looked at often only while it started.
    timed = [one for one in done if any(some.seconds or some.missed for some in (one.live, one.gone))]
    if timed:
        median = max(one.looks_seconds[0] for one in timed) * 1000
        most = max(one.looks_seconds[1] for one in timed) * 1000
        yield "How exact the times of changes are: HAProxy was looked at again after"
        yield f"{median:.1f} ms (median of the worst cell; 99th percentile of the worst: {most:.1f} ms)."


def _legend(cells: Sequence[Cell]) -> Iterator[str]:
    yield "- *failed*: refused, reset, cut (closed before the whole response), timeout, 5xx or other; no client tries"
    yield "  a request again. *late*: answered by a server that Consul did not have as serving when it was begun."
    yield "- *live*, *gone*: from the change (its PUT is sent) to the worker that answers having it: median / 99th"
    yield "  percentile / longest. *never*: not before the next change of that server, or the end."
    yield "- *longest connection*: that a client kept, of the time that was measured."
    yield "- *workers*: processes of HAProxy that came anew, and how many there were at most, with those that are"
    yield "  stopping; *memory*: most of what they all, and the tool, held at a time (proportional set size)."
    yield "- *tool CPU*: of what keeps HAProxy in sync, as a part of one core. *asked*: requests of the balancer to"
    yield "  its local Consul agent, and bytes between them. *servers*: the agent's calls to servers, likewise."
    for traffic in traffic_of([cell.row for cell in cells]):
        yield f"- traffic *{traffic}*: {TRAFFIC[traffic]}"
