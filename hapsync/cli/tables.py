"""The tables of `hapsync status`, readable in 80 columns and without colour."""

import sys
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapsync.agent.report_file import Report
from hapsync.haproxy.old_workers import OldWorkers
from hapsync.inspect.status import BackendView, ServerRow, Verdict, View
from hapsync.model.changes import Deferred, Reason
from hapsync.model.overrides import Override
from hapsync.model.server import ListenQueue
from hapsync.plan.growth import WARN_FRACTION
from hapsync.plan.plan import describe
from hapsync.text import one_line, plural, shown

_WORDS = {
    Verdict.IN_SYNC: ("in sync", "green"),
    Verdict.OUT_OF_SYNC: ("OUT OF STEP", "bold red"),
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
    """Print everything `view` has to say."""
    console = _console()
    word, style = _WORDS[view.verdict]
    console.print(Text(word, style=style), end="")
    console.print(Text(f"  {_summary(view)}"))
    for reason in view.reasons[:_REASONS]:
        console.print(Text(f"  - {one_line(reason)}"))
    if len(view.reasons) > _REASONS:
        console.print(Text(f"  - and {len(view.reasons) - _REASONS} more; --json has them all"))
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
        console.print(Text(f"held  {' '.join(describe(deferred.change).split())}: {deferred.reason.value}{hint}"))
    if len(everything_deferred) > _DEFERRED:
        console.print(Text(f"held  and {len(everything_deferred) - _DEFERRED} more; `hapsync plan` has them all"))
    if guarded := sorted({one.change.backend for one in view.plan.deferred if not is_overridden(one)}):
        console.print(Text(f"to let go what the guard holds: hapsync release {guarded[0]}"))
    for hold in view.overrides:
        console.print(Text(f"hold  {_hold_words(hold)}"))
    _print_old_workers(console, view.old_workers)
    if view.queues:
        _print_queues(console, view.queues)


def is_overridden(deferred: Deferred) -> bool:
    """Return whether a person's hand on the server is what keeps it."""
    return deferred.reason is Reason.OVERRIDDEN


def _hold_words(hold: Override) -> str:
    until = f"for {_ago(2 * time.time() - hold.until)} more" if hold.until else "until released"
    because = f": {one_line(hold.reason)}" if hold.reason else ""
    ending = ", being released" if hold.is_releasing else ""
    where = f"{hold.backend} {hold.address} {hold.admin.value}"
    return f"{where}, by {shown(hold.who)} {_ago(hold.at)} ago, {until}{ending}{because}"


def _print_old_workers(console: Console, old: OldWorkers) -> None:
    if old.error is not None:
        console.print(Text(f"old workers: not known: {one_line(old.error)}"))
    if old.workers:
        console.print()
    for worker in old.workers[:_OLD]:
        sessions = "sessions unknown" if worker.sessions is None else plural(worker.sessions, "session")
        age = _ago(time.time() - worker.age_seconds)
        console.print(Text(f"old worker {worker.pid}  old for {age}, {sessions}"))
        for gone in worker.gone[:_GONE]:
            count = gone.used if gone.connections is None else gone.connections
            where = f"{gone.backend}/{gone.server} {gone.address}"
            console.print(Text(f"  {plural(count, 'connection')} to {where}, which is gone"))
        if len(worker.gone) > _GONE:
            console.print(Text(f"  and {len(worker.gone) - _GONE} more servers that are gone; --json has them all"))
        if worker.error is not None:
            console.print(Text(f"  {one_line(worker.error)}"))
    if len(old.workers) > _OLD:
        console.print(Text(f"and {len(old.workers) - _OLD} more old workers; --json has them all"))
    if old.ended:
        console.print(Text(f"old workers: {plural(old.ended, 'session')} to servers that were gone ended"))


def _print_queues(console: Console, queues: Sequence[ListenQueue]) -> None:
    table = _table("listener", "waiting", "limit")
    for queue in queues:
        host = f"[{queue.host}]" if ":" in queue.host else queue.host
        table.add_row(f"{host}:{queue.port}", str(queue.waiting), str(queue.limit))
    console.print()
    _print_table(console, table)


def _presence(backend: BackendView) -> str:
    if backend.unread:
        return "  CANNOT BE READ"
    return "" if backend.exists else "  not in HAProxy yet"


def _console() -> Console:
    # Nothing from outside is markup, and a pipe gets a line for each server however long.
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
        parts.append(f"{len(view.plan.deferred)} held")
    if quarantined:
        parts.append(f"{quarantined} quarantined")
    return ", ".join(parts)


def _print_agent(console: Console, view: View) -> None:
    report = view.report
    if report is None:
        console.print(Text("agent: none runs (or it has not reported yet)"))
        return
    counters = report.counters
    console.print(
        Text(
            f"agent: pid {report.pid}, up {_ago(report.started_at)}, {plural(counters.changes, 'change')}, "
            f"{plural(counters.reloads, 'reload')}, {counters.refused} refused"
        )
    )
    if report.mode != "active":
        console.print(Text(f"  mode {report.mode}: changes nothing"), style="bold yellow")
    if report.state_file_error:
        console.print(Text(f"  memory not written: {one_line(report.state_file_error)}"))
    if report.settings_error:
        console.print(Text(f"  {one_line(report.settings_error)}"))
    if report.reload_waits_for:
        console.print(Text(f"  a reload waits for {one_line(report.reload_waits_for)}"))
    for name in report.leaving:
        console.print(Text(f"  backend {shown(name)} is leaving: deleted once nothing is left on it"))
    if report.discovery_error:
        console.print(Text(f"  not discovered: {one_line(report.discovery_error, length=300)}"))
    for service, one in report.services.items():
        if one.error:
            console.print(Text(f"  service {shown(service)}: {one_line(one.error, length=300)}"))
    _print_events(console, report)


def _print_events(console: Console, report: Report) -> None:
    for reload in report.reloads[-2:]:
        outcome = "done" if reload.error is None else f"FAILED: {one_line(reload.error, length=300)}"
        console.print(Text(f"  reload {_ago(reload.at)} ago, {outcome} ({one_line(reload.why, length=120)})"))
    for event in report.changes[-_EVENTS:]:
        console.print(Text(f"  {_ago(event.at)} ago  {one_line(event.what, length=200)}"))
    for event in report.refusals[-2:]:
        console.print(Text(f"  {_ago(event.at)} ago  refused {one_line(event.what, length=200)}"))


def _print_backend(console: Console, backend: BackendView, *, haproxy_answers: bool) -> None:
    head = f"{backend.name}  service {shown(backend.service)}"
    if not haproxy_answers:
        console.print(Text(f"{head}  "))
    else:
        console.print(Text(f"{head}  {_places(backend)}{_presence(backend)}"))
        if backend.scaling.why and (backend.without_slot or _fullness(backend) >= WARN_FRACTION):
            console.print(Text(f"  more than its slots costs a reload: {one_line(backend.scaling.why)}"))
        if (backend.slots_used or backend.dynamic) and backend.capacity < backend.floor:
            console.print(
                Text(f"  {backend.capacity} up and checked, the guard keeps at least {backend.floor}"),
                style="bold yellow",
            )
    for left in backend.stale_overrides:
        age = _ago(time.time() - left.since_seconds)
        what = f"{left.name} {left.address} is in {left.admin.value} by hand, unchanged for {age}"
        remedy = f"`hapsync release {backend.name}/{left.name}` frees its place"
        console.print(Text(f"  {what}, and its instance is gone from Consul; {remedy}"), style="bold yellow")
    if backend.doubt:
        console.print(Text(f"  nothing is removed: {backend.doubt}"), style="bold yellow")
    elif backend.is_refilling:
        console.print(Text("  nothing is removed until the service is back whole"), style="bold yellow")
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
        console.print(Text(f"  quarantined {who}: {one_line(left_out.reason)}"))
    if len(backend.quarantined) > _QUARANTINED:
        console.print(Text(f"  quarantined {len(backend.quarantined) - _QUARANTINED} more; --json has them all"))


def _print_bounded(console: Console, backend: BackendView) -> None:
    """Say whose weight in Consul counts for less than it is."""
    for row in backend.rows:
        want = row.desired
        if want is not None and want.consul_weight is not None:
            weight = f"its weight in Consul, {want.consul_weight}, is bounded by max_weight_ratio"
            console.print(Text(f"  {row.server.name} {want.address}: {weight}"))


def _fullness(backend: BackendView) -> float:
    """Return how large a part of its slots is in use."""
    total = backend.slots_used + backend.slots_free + backend.slots_emptying
    return backend.slots_used / total if total else 0.0


def _places(backend: BackendView) -> str:
    """Return how many places a backend has, and whether more are needed soon."""
    places = f"slots {backend.slots_used} used, {backend.slots_free} free"
    if backend.slots_emptying:
        places += f", {backend.slots_emptying} emptying"
    if backend.dynamic:
        places += f", {backend.dynamic} dynamic"
    if backend.scaling.can_add:
        return places  # what finds no slot is added
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
        state = Text(f"{server.admin.value} by hand", style="bold")
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
    # rich pads every cell to its column; at the end of a line that is only in the way of whoever copies it.
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _ago(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    if seconds < 120:  # noqa: PLR2004
        return f"{seconds} s"
    if seconds < 7200:  # noqa: PLR2004
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172800 else f"{seconds // 86400} d"  # noqa: PLR2004
