"""The tables of `hapsync status`, readable in 80 columns and without colour."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapsync.agent.report_file import Report
from hapsync.haproxy.old_workers import OldWorkers, OnServer
from hapsync.inspect.status import BackendView, ServerRow, View
from hapsync.model.catalog import Quarantined
from hapsync.model.changes import Deferred, Reason, takes_out
from hapsync.model.overrides import Override
from hapsync.model.server import ListenQueue
from hapsync.plan.assessment import Verdict
from hapsync.plan.growth import WARN_FRACTION
from hapsync.plan.plan import describe
from hapsync.text import one_line, plural, shown

Item = TypeVar("Item")

Piece = str | tuple[str, str] | Text | Table
"""A line, one with its style, a line that `rich` folds, or a table."""

PIPE_WIDTH = 1000
_WORDS = {
    Verdict.IN_SYNC: ("in sync", "green"),
    Verdict.OUT_OF_SYNC: ("OUT OF SYNC", "bold red"),
    Verdict.CANNOT_TELL: ("CANNOT TELL", "bold yellow"),
}
_WARNING = "bold yellow"
_EVENTS = 5
_REASONS = 12
_QUARANTINED = 20
_DEFERRED = 12
_OLD = 10
_GONE = 8


def print_view(view: View) -> None:
    """Print the whole of `view`."""
    console = _console()
    for piece in _pieces(view):
        match piece:
            case str():
                _print_line(console, piece)
            case (text, style):
                _print_line(console, text, style)
            case Text():
                console.print(piece)
            case Table():
                _print_table(console, piece)


def _console() -> Console:
    # Text from outside is never markup, and a pipe gets one line for each server, however long.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


def _print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line; where it wraps, its other lines are indented by four more."""
    indent = " " * (len(text) - len(text.lstrip(" ")) + 4)
    lines = textwrap.wrap(
        text, console.width, subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False
    )
    for line in lines or [text]:
        console.print(Text(line, style=style))


def _print_table(console: Console, table: Table) -> None:
    # rich pads every cell to its column; blanks at the end of a line are a nuisance for copies.
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("wt", "ses", "waiting", "limit")
        is_last = column == "node/service id"
        table.add_column(
            column,
            justify="right" if numeric else "left",
            no_wrap=not is_last,
            overflow="fold" if is_last else "ellipsis",
        )
    return table


def _some(items: Sequence[Item], most: int, line: Callable[[Item], str], more: str) -> Iterator[str]:
    """Yield the `line` of each of the first `most` items, then `more` with the number of the others, if any."""
    yield from map(line, items[:most])
    if len(items) > most:
        yield more.format(len(items) - most)


def _pieces(view: View) -> Iterator[Piece]:
    """Yield all of `view` from top to bottom."""
    yield Text.assemble(_WORDS[view.verdict], f"  {_summary(view)}")
    more = "  - and {} more; --json has them all"
    yield from _some(view.reasons, _REASONS, lambda reason: f"  - {one_line(reason)}", more)
    if view.report is None:
        yield "agent: NOT RUNNING, or without a report yet (`systemctl status hapsync`)"
    else:
        yield from _agent(view.report)
    for backend in view.backends:
        yield ""
        yield from _backend(backend, haproxy_answers=view.seen is not None)
    yield from _some(view.deferred, _DEFERRED, _deferred, "deferred  and {} more; `hapsync plan` has them all")
    for backend in view.backends:
        yield from _release(backend, view.plan.deferred)
    for override in view.rules.saved.holds:
        yield f"override  {_override(override)}"
    yield from _old_workers(view.old_workers)
    if view.queues:
        yield ""
        yield _queues(view.queues)


def _summary(view: View) -> str:
    parts = ["HAProxy does not answer"]
    if view.seen is not None:
        parts = [f"HAProxy {view.seen.process.version.split('-')[0]} pid {view.seen.process.pid}"]
    if view.catalog_age_seconds is None:
        parts.append("no catalog")
    else:
        source = "agent's catalog" if view.catalog_from == "agent" else "Consul"
        parts.append(f"{source}, confirmed {view.catalog_age_seconds:.0f} s ago")
    if view.plan.deferred:
        parts.append(f"{len(view.plan.deferred)} deferred")
    if view.quarantined:
        parts.append(f"{len(view.quarantined)} quarantined")
    return ", ".join(parts)


def _agent(report: Report) -> Iterator[Piece]:
    counters = report.counters
    yield Text(
        f"agent: pid {report.pid}, up {_since(report.started_at)}, {plural(counters.changes, 'change')}, "
        f"{plural(counters.reloads, 'reload')}, {counters.refused} refused"
    )
    if report.mode != "active":
        yield f"  mode {report.mode}: changes nothing", _WARNING
    if report.state_file_error:
        yield f"  state file not written: {one_line(report.state_file_error)}"
    if report.settings_error:
        yield f"  {one_line(report.settings_error)}"
    if report.reload_waits_for:
        yield f"  a reload waits for {one_line(report.reload_waits_for)}"
    for name in report.leaving:
        yield f"  backend {shown(name)} is leaving: deleted once nothing is left on it"
    if report.discovery_error:
        yield f"  not discovered: {one_line(report.discovery_error, length=300)}"
    for error in sorted({one.error for one in report.services.values() if one.error}):
        services = [shown(name) for name, one in report.services.items() if one.error == error]
        word = "service" if len(services) == 1 else "services"
        yield f"  {word} {one_line(', '.join(services))}: {one_line(error, length=300)}"
    for reload in report.reloads[-2:]:
        outcome = "done" if reload.error is None else f"FAILED: {one_line(reload.error, length=300)}"
        yield f"  {_when(reload.at)}  reload {outcome} ({one_line(reload.why, length=120)})"
    for event in report.changes[-_EVENTS:]:
        yield f"  {_when(event.at)}  {one_line(event.what, length=200)}"
    for event in report.refusals[-2:]:
        yield f"  {_when(event.at)}  refused {one_line(event.what, length=200)}"


def _backend(backend: BackendView, *, haproxy_answers: bool) -> Iterator[Piece]:
    have, want, scaling = backend.have, backend.want, backend.have.scaling
    head = f"{backend.name}  service {shown(backend.service)}  "
    if not haproxy_answers:
        yield head
    else:
        existence = "  CANNOT BE READ" if backend.unread else "" if have.exists else "  not in HAProxy yet"
        yield f"{head}{_places(backend)}{existence}"
        if scaling.why and (backend.without_slot or backend.fullness >= WARN_FRACTION):
            yield f"  growing past these slots needs a reload: {one_line(scaling.why)}"
        servers = backend.slots_used + backend.dynamic
        if servers and backend.capacity < backend.floor:
            up = f"{backend.capacity} of {plural(servers, 'server')} UP in HAProxy"
            yield f"  {up}, the guard keeps at least {backend.floor}", _WARNING
    for left in backend.stale_overrides:
        what = f"{left.name} {left.address} is in {left.admin.value} by an operator"
        remedy = f"`hapsync release {backend.name}/{left.name}` frees its slot"
        age = f"unchanged for {_span(left.since_seconds)}"
        yield f"  {what}, {age}, and its instance is gone from Consul; {remedy}", _WARNING
    if want.doubt:
        yield f"  nothing is removed: {want.doubt.value}", _WARNING
    elif backend.caution.is_refilling:
        yield "  nothing is removed until the service is back whole", _WARNING
    rows = [row for row in backend.rows if row.use != "free"]
    if rows or backend.without_slot:
        table = _table("server", "address", "state", "wt", "check", "ses", "consul", "node/service id")
        for row in rows:
            table.add_row(*_cells(row))
        for one in backend.without_slot:
            who = f"{shown(one.node)}/{shown(one.instance_id)}"
            state = "no slot" if haproxy_answers else "?"
            table.add_row("-", str(one.address), state, "", "", "", one.status.value, who)
        yield table
    for row in backend.rows:
        if row.desired is not None and row.desired.consul_weight is not None:
            weight = f"its weight in Consul, {row.desired.consul_weight}, is bounded by max_weight_ratio"
            yield f"  {row.server.name} {row.desired.address}: {weight}"
    more = "  quarantined {} more; --json has them all"
    yield from _some(want.quarantined, _QUARANTINED, _quarantined, more)


def _places(backend: BackendView) -> str:
    """Return the numbers of a backend's slots and dynamic servers in words, and whether the slots run out."""
    places = f"slots {backend.slots_used} used, {backend.slots('free')} free"
    if emptying := backend.slots("emptying"):
        places += f", {emptying} emptying"
    if backend.dynamic:
        places += f", {backend.dynamic} dynamic"
    if backend.have.scaling.can_add:
        return places  # an instance without a free slot gets a dynamic server
    fullness = backend.fullness
    return places + (" (full)" if fullness == 1 else " (nearly full)" if fullness >= WARN_FRACTION else "")


def _cells(row: ServerRow) -> tuple[Text | str, ...]:
    server, want = row.server, row.desired
    state: Text | str = server.admin.value
    if want is not None and want.admin is not server.admin:
        state = Text(f"{server.admin.value} > {want.admin.value}", style="bold red")
    weight = str(server.weight)
    if want is not None and want.admin is server.admin and want.needs_slot and want.weight != server.weight:
        weight = f"{server.weight} > {want.weight}"
    check = row.health.check.split(" ")[0] if row.health and row.health.check else ""
    status = row.health.status if row.health else ""
    up = check or "-" if status.startswith(("UP", "no check", "DRAIN", "MAINT")) else f"{status} {check}".strip()
    sessions = str(server.load.sessions) if server.load else "?"
    if row.use == "overridden":
        state = Text(f"{server.admin.value} (operator)", style="bold")
    use = {"overridden": "", "foreign": "foreign", "emptying": "gone, emptying", "used": "not in catalog"}
    consul = want.status.value if want else use.get(row.use, "")
    who = f"{shown(want.node)}/{shown(want.instance_id)}" if want else ""
    return server.name, str(server.address or "-"), state, weight, up, sessions, consul, who


def _quarantined(left_out: Quarantined) -> str:
    who = f"{shown(left_out.node, length=40)}/{shown(left_out.instance_id, length=60)}"
    return f"  quarantined {who}: {one_line(left_out.reason)}"


def _deferred(deferred: Deferred) -> str:
    change = deferred.change
    is_overridden = deferred.reason is Reason.OVERRIDDEN
    hint = f"; `hapsync release {change.backend}/{change.server}` ends it" if is_overridden else ""
    return f"deferred  {' '.join(describe(change).split())}: {deferred.reason.value}{hint}"


def _release(backend: BackendView, deferred: Sequence[Deferred]) -> Iterator[str]:
    """Yield how many removals the guard defers in `backend`, and the command that makes them, if any."""
    mine = [one for one in deferred if one.change.backend == backend.name and one.reason is not Reason.OVERRIDDEN]
    leaving = {one.change.server for one in mine if takes_out(one.change)}
    if leaving:
        serving = {row.server.name for row in backend.rows if row.server.serves}
        out = f"takes out {plural(len(leaving & serving), 'serving server')}, {len(serving - leaving)} stay"
        yield (
            f"{backend.name}: the guard defers {plural(len(leaving), 'removal')}; if they are right: "
            f"`hapsync release {backend.name}` ({out})"
        )


def _override(override: Override) -> str:
    until = f"for {_span(override.until - time.time())} more" if override.until else "until released"
    because = f": {one_line(override.reason)}" if override.reason else ""
    ending = ", being released" if override.is_releasing else ""
    where = f"{override.backend} {override.address} {override.admin.value}"
    return f"{where}, by {shown(override.who)} {_since(override.at)} ago, {until}{ending}{because}"


def _old_workers(old: OldWorkers) -> Iterator[str]:
    if old.error is not None:
        yield f"old workers: not known: {one_line(old.error)}"
    if old.workers:
        yield ""
    for worker in old.workers[:_OLD]:
        sessions = "sessions unknown" if worker.sessions is None else plural(worker.sessions, "session")
        yield f"old worker {worker.pid}  old for {_span(worker.age_seconds)}, {sessions}"
        yield from _some(worker.gone, _GONE, _gone, "  and {} more servers that are gone; --json has them all")
        if worker.error is not None:
            yield f"  {one_line(worker.error)}"
    if len(old.workers) > _OLD:
        yield f"and {len(old.workers) - _OLD} more old workers; --json has them all"
    if old.ended:
        yield f"old workers: {plural(old.ended, 'session')} to servers that were gone ended"


def _gone(gone: OnServer) -> str:
    count = gone.used if gone.connections is None else gone.connections
    return f"  {plural(count, 'connection')} to {gone.backend}/{gone.server} {gone.address}, which is gone"


def _queues(queues: Sequence[ListenQueue]) -> Table:
    table = _table("listener", "waiting", "limit")
    for queue in queues:
        host = f"[{queue.host}]" if ":" in queue.host else queue.host
        table.add_row(f"{host}:{queue.port}", str(queue.waiting), str(queue.limit))
    return table


def _when(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))} ({_since(at)} ago)"


def _since(at: float) -> str:
    """Return the time since `at`, seconds of the wall clock, in words."""
    return _span(time.time() - at)


def _span(seconds: float) -> str:
    """Return `seconds` in the unit that suits them."""
    whole = max(0, int(seconds))
    if whole < 120:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 7200:  # noqa: PLR2004
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 172800 else f"{whole // 86400} d"  # noqa: PLR2004
