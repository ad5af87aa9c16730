"""The tables of `hapsync status`, readable in 80 columns and without colour."""

import sys
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapsync.edge.sockdiag import ListenQueue
from hapsync.report import Report
from hapsync.status import BackendView, ServerRow, Verdict, View
from hapsync.text import one_line, plural, shown

_WORDS = {
    Verdict.IN_STEP: ("in step", "green"),
    Verdict.OUT_OF_STEP: ("OUT OF STEP", "bold red"),
    Verdict.CANNOT_TELL: ("CANNOT TELL", "bold yellow"),
}
PIPE_WIDTH = 1000
_WARN_FRACTION = 0.8
"""Of a backend's slots in use: time to plan for more before they run out."""
_EVENTS = 5
_REASONS = 12


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
    for held in (*view.plan.held, *view.plan.waiting):
        console.print(Text(f"held  {held.change.backend}/{held.change.server}: {held.reason.value}"))


def print_queues(queues: Sequence[ListenQueue]) -> None:
    """Print the accept queue of each listener."""
    table = _table("listener", "waiting", "limit")
    for queue in queues:
        host = f"[{queue.host}]" if ":" in queue.host else queue.host
        table.add_row(f"{host}:{queue.port}", str(queue.waiting), str(queue.limit))
    console = _console()
    console.print()
    _print_table(console, table)


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
    if view.plan.held:
        parts.append(f"{len(view.plan.held)} held")
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
    if report.settings_error:
        console.print(Text(f"  settings not taken: {one_line(report.settings_error)}"))
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
    total = backend.slots_used + backend.slots_free + backend.slots_emptying
    slots = f"slots {backend.slots_used} used, {backend.slots_free} free"
    if backend.slots_emptying:
        slots += f", {backend.slots_emptying} emptying"
    if total and backend.slots_used == total:
        slots += " (full)"
    elif total and backend.slots_used >= _WARN_FRACTION * total:
        slots += " (nearly full)"
    missing = "" if backend.exists else "  not in HAProxy yet"
    if not haproxy_answers:
        slots, missing = "", ""
    console.print(Text(f"{backend.name}  service {shown(backend.service)}  {slots}{missing}"))
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
    for left_out in backend.quarantined:
        who = f"{shown(left_out.node, length=40)}/{shown(left_out.instance_id, length=60)}"
        console.print(Text(f"  quarantined {who}: {left_out.reason}"))


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
    use = {"foreign": "foreign", "emptying": "gone, emptying", "used": "not in catalog"}
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
