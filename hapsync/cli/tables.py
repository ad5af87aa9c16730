"""The tables of `hapsync status`, readable in 80 columns and without colour."""

import sys
import textwrap
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapsync.agent.report_file import Report
from hapsync.haproxy.old_workers import OldWorkers
from hapsync.inspect.status import BackendView, ServerRow, View
from hapsync.model.changes import Deferred, Reason, takes_out
from hapsync.model.overrides import Override
from hapsync.model.server import ListenQueue
from hapsync.plan.assessment import Verdict
from hapsync.plan.growth import WARN_FRACTION
from hapsync.plan.plan import describe
from hapsync.text import one_line, plural, shown

_WORDS = {
    Verdict.IN_SYNC: ("in sync", "green"),
    Verdict.OUT_OF_SYNC: ("OUT OF SYNC", "bold red"),
    Verdict.CANNOT_TELL: ("CANNOT TELL", "bold yellow"),
}
PIPE_WIDTH = 1000
_EVENTS = 5
_REASONS = 12
_QUARANTINED = 20
_DEFERRED = 12
_OLD = 10
_GONE = 8


def print_view(view: View) -> None:
    """Print the whole of `view`."""
    console = _console()
    word, style = _WORDS[view.verdict]
    console.print(Text.assemble((word, style), f"  {_summary(view)}"))
    for reason in view.reasons[:_REASONS]:
        _say(console, f"  - {one_line(reason)}")
    if len(view.reasons) > _REASONS:
        _say(console, f"  - and {len(view.reasons) - _REASONS} more; --json has them all")
    _print_agent(console, view)
    for backend in view.backends:
        console.print()
        _print_backend(console, backend, haproxy_answers=view.haproxy is not None)
    everything_deferred = (*view.plan.deferred, *view.plan.waiting)
    for deferred in everything_deferred[:_DEFERRED]:
        hint = (
            f"; `hapsync release {deferred.change.backend}/{deferred.change.server}` ends it"
            if is_overridden(deferred)
            else ""
        )
        _say(console, f"deferred  {' '.join(describe(deferred.change).split())}: {deferred.reason.value}{hint}")
    if len(everything_deferred) > _DEFERRED:
        _say(console, f"deferred  and {len(everything_deferred) - _DEFERRED} more; `hapsync plan` has them all")
    for backend in view.backends:
        if remedy := _release_words(backend, view.plan.deferred):
            _say(console, remedy)
    for override in view.overrides:
        _say(console, f"override  {_override_words(override)}")
    _print_old_workers(console, view.old_workers)
    if view.queues:
        _print_queues(console, view.queues)


def is_overridden(deferred: Deferred) -> bool:
    """Return whether the change is deferred for an operator's override of its server."""
    return deferred.reason is Reason.OVERRIDDEN


def _release_words(backend: BackendView, deferred: Sequence[Deferred]) -> str:
    """Return how many removals the guard defers in `backend`, and the command that makes them; empty where none."""
    mine = [one for one in deferred if one.change.backend == backend.name and not is_overridden(one)]
    leaving = {one.change.server for one in mine if takes_out(one.change)}
    if not leaving:
        return ""
    serving = {row.server.name for row in backend.rows if row.server.serves}
    out = f"takes out {plural(len(leaving & serving), 'serving server')}, {len(serving - leaving)} stay"
    return (
        f"{backend.name}: the guard defers {plural(len(leaving), 'removal')}; if they are right: "
        f"`hapsync release {backend.name}` ({out})"
    )


def _override_words(override: Override) -> str:
    until = f"for {_ago(2 * time.time() - override.until)} more" if override.until else "until released"
    because = f": {one_line(override.reason)}" if override.reason else ""
    ending = ", being released" if override.is_releasing else ""
    where = f"{override.backend} {override.address} {override.admin.value}"
    return f"{where}, by {shown(override.who)} {_ago(override.at)} ago, {until}{ending}{because}"


def _print_old_workers(console: Console, old: OldWorkers) -> None:
    if old.error is not None:
        _say(console, f"old workers: not known: {one_line(old.error)}")
    if old.workers:
        console.print()
    for worker in old.workers[:_OLD]:
        sessions = "sessions unknown" if worker.sessions is None else plural(worker.sessions, "session")
        age = _ago(time.time() - worker.age_seconds)
        _say(console, f"old worker {worker.pid}  old for {age}, {sessions}")
        for gone in worker.gone[:_GONE]:
            count = gone.used if gone.connections is None else gone.connections
            where = f"{gone.backend}/{gone.server} {gone.address}"
            _say(console, f"  {plural(count, 'connection')} to {where}, which is gone")
        if len(worker.gone) > _GONE:
            _say(console, f"  and {len(worker.gone) - _GONE} more servers that are gone; --json has them all")
        if worker.error is not None:
            _say(console, f"  {one_line(worker.error)}")
    if len(old.workers) > _OLD:
        _say(console, f"and {len(old.workers) - _OLD} more old workers; --json has them all")
    if old.ended:
        _say(console, f"old workers: {plural(old.ended, 'session')} to servers that were gone ended")


def _print_queues(console: Console, queues: Sequence[ListenQueue]) -> None:
    table = _table("listener", "waiting", "limit")
    for queue in queues:
        host = f"[{queue.host}]" if ":" in queue.host else queue.host
        table.add_row(f"{host}:{queue.port}", str(queue.waiting), str(queue.limit))
    console.print()
    _print_table(console, table)


def _existence(backend: BackendView) -> str:
    if backend.unread:
        return "  CANNOT BE READ"
    return "" if backend.exists else "  not in HAProxy yet"


def _say(console: Console, text: str, style: str = "") -> None:
    """Print one line; where it wraps, its other lines are indented by four more."""
    indent = " " * (len(text) - len(text.lstrip(" ")) + 4)
    lines = textwrap.wrap(
        text, console.width, subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False
    )
    for line in lines or [text]:
        console.print(Text(line, style=style))


def _console() -> Console:
    # Text from outside is never markup, and a pipe gets one line for each server, however long.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


def _summary(view: View) -> str:
    parts = []
    if view.haproxy is not None:
        parts.append(f"HAProxy {view.haproxy.version.split('-')[0]} pid {view.haproxy.pid}")
    else:
        parts.append("HAProxy does not answer")
    if view.catalog_age_seconds is None:
        parts.append("no catalog")
    else:
        source = "agent's catalog" if view.catalog_from == "agent" else "Consul"
        parts.append(f"{source}, confirmed {view.catalog_age_seconds:.0f} s ago")
    quarantined = sum(len(backend.quarantined) for backend in view.backends)
    if view.plan.deferred:
        parts.append(f"{len(view.plan.deferred)} deferred")
    if quarantined:
        parts.append(f"{quarantined} quarantined")
    return ", ".join(parts)


def _print_agent(console: Console, view: View) -> None:
    report = view.report
    if report is None:
        _say(console, "agent: NOT RUNNING, or without a report yet (`systemctl status hapsync`)")
        return
    counters = report.counters
    console.print(
        Text(
            f"agent: pid {report.pid}, up {_ago(report.started_at)}, {plural(counters.changes, 'change')}, "
            f"{plural(counters.reloads, 'reload')}, {counters.refused} refused"
        )
    )
    if report.mode != "active":
        _say(console, f"  mode {report.mode}: changes nothing", "bold yellow")
    if report.state_file_error:
        _say(console, f"  state file not written: {one_line(report.state_file_error)}")
    if report.settings_error:
        _say(console, f"  {one_line(report.settings_error)}")
    if report.reload_waits_for:
        _say(console, f"  a reload waits for {one_line(report.reload_waits_for)}")
    for name in report.leaving:
        _say(console, f"  backend {shown(name)} is leaving: deleted once nothing is left on it")
    if report.discovery_error:
        _say(console, f"  not discovered: {one_line(report.discovery_error, length=300)}")
    for error in sorted({one.error for one in report.services.values() if one.error}):
        services = [shown(name) for name, one in report.services.items() if one.error == error]
        word = "service" if len(services) == 1 else "services"
        _say(console, f"  {word} {one_line(', '.join(services))}: {one_line(error, length=300)}")
    _print_events(console, report)


def _print_events(console: Console, report: Report) -> None:
    for reload in report.reloads[-2:]:
        outcome = "done" if reload.error is None else f"FAILED: {one_line(reload.error, length=300)}"
        _say(console, f"  {_when(reload.at)}  reload {outcome} ({one_line(reload.why, length=120)})")
    for event in report.changes[-_EVENTS:]:
        _say(console, f"  {_when(event.at)}  {one_line(event.what, length=200)}")
    for event in report.refusals[-2:]:
        _say(console, f"  {_when(event.at)}  refused {one_line(event.what, length=200)}")


def _print_backend(console: Console, backend: BackendView, *, haproxy_answers: bool) -> None:
    head = f"{backend.name}  service {shown(backend.service)}"
    if not haproxy_answers:
        _say(console, f"{head}  ")
    else:
        _say(console, f"{head}  {_places(backend)}{_existence(backend)}")
        if backend.scaling.why and (backend.without_slot or _fullness(backend) >= WARN_FRACTION):
            _say(console, f"  growing past these slots needs a reload: {one_line(backend.scaling.why)}")
        if (backend.slots_used or backend.dynamic) and backend.capacity < backend.floor:
            servers = plural(backend.slots_used + backend.dynamic, "server")
            up = f"{backend.capacity} of {servers} UP in HAProxy, the guard keeps at least {backend.floor}"
            _say(console, f"  {up}", "bold yellow")
    for left in backend.stale_overrides:
        age = _ago(time.time() - left.since_seconds)
        what = f"{left.name} {left.address} is in {left.admin.value} by an operator, unchanged for {age}"
        remedy = f"`hapsync release {backend.name}/{left.name}` frees its slot"
        _say(console, f"  {what}, and its instance is gone from Consul; {remedy}", "bold yellow")
    if backend.doubt:
        _say(console, f"  nothing is removed: {backend.doubt}", "bold yellow")
    elif backend.is_refilling:
        _say(console, "  nothing is removed until the service is back whole", "bold yellow")
    rows = [row for row in backend.rows if row.use != "free"]
    if rows or backend.without_slot:
        table = _table("server", "address", "state", "wt", "check", "ses", "consul", "node/service id")
        for row in rows:
            table.add_row(*_cells(row))
        for one in backend.without_slot:
            who = f"{shown(one.node)}/{shown(one.instance_id)}"
            table.add_row(
                "-", str(one.address), "no slot" if haproxy_answers else "?", "", "", "", one.status.value, who
            )
        _print_table(console, table)
    _print_bounded(console, backend)
    for left_out in backend.quarantined[:_QUARANTINED]:
        who = f"{shown(left_out.node, length=40)}/{shown(left_out.instance_id, length=60)}"
        _say(console, f"  quarantined {who}: {one_line(left_out.reason)}")
    if len(backend.quarantined) > _QUARANTINED:
        _say(console, f"  quarantined {len(backend.quarantined) - _QUARANTINED} more; --json has them all")


def _print_bounded(console: Console, backend: BackendView) -> None:
    """Print each server whose weight in Consul is bounded by `max_weight_ratio`."""
    for row in backend.rows:
        want = row.desired
        if want is not None and want.consul_weight is not None:
            weight = f"its weight in Consul, {want.consul_weight}, is bounded by max_weight_ratio"
            _say(console, f"  {row.server.name} {want.address}: {weight}")


def _fullness(backend: BackendView) -> float:
    """Return the part of the backend's slots that is in use, from 0 to 1."""
    total = backend.slots_used + backend.slots_free + backend.slots_emptying
    return backend.slots_used / total if total else 0.0


def _places(backend: BackendView) -> str:
    """Return the numbers of a backend's slots and dynamic servers in words, and whether the slots run out."""
    places = f"slots {backend.slots_used} used, {backend.slots_free} free"
    if backend.slots_emptying:
        places += f", {backend.slots_emptying} emptying"
    if backend.dynamic:
        places += f", {backend.dynamic} dynamic"
    if backend.scaling.can_add:
        return places  # an instance without a free slot gets a dynamic server
    fullness = _fullness(backend)
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


def _print_table(console: Console, table: Table) -> None:
    # rich pads every cell to its column; blanks at the end of a line are a nuisance for copies.
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _when(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))} ({_ago(at)} ago)"


def _ago(at: float) -> str:
    """Return the age of `at`, seconds of the wall clock, in the unit that suits it."""
    seconds = max(0, int(time.time() - at))
    if seconds < 120:  # noqa: PLR2004
        return f"{seconds} s"
    if seconds < 7200:  # noqa: PLR2004
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172800 else f"{seconds // 86400} d"  # noqa: PLR2004
