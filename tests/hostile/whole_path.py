"""One answer of Consul through everything pure that is made of it; what leaves must be plain, or it is said here.

What is plain is written down here once more and on purpose: this must not trust the whitelists it is to test.
"""

import contextlib
import io
import json
import logging
import re
import string
from collections.abc import Iterable

import attrs

from hapsync.agent.reconcile import Outcome
from hapsync.agent.report import Reporter
from hapsync.agent.report_file import Snapshot, snapshot_from_json, snapshot_to_json
from hapsync.cli.tables import print_view
from hapsync.config.schema import BackendConfig, Config, Template
from hapsync.consul.health import parse_reading
from hapsync.haproxy.commands import Refusal, address_commands, state_commands
from hapsync.haproxy.render import labels_of, render
from hapsync.inspect.status import View, view_to_json
from hapsync.model.catalog import Catalog, Reading
from hapsync.model.server import Address, AdminState, Backend, HAProxyProcess, Observed, Server
from hapsync.plan.assessment import Assessment, Rules, assess
from hapsync.plan.desired import Desired, desired
from hapsync.plan.diff import diff
from hapsync.plan.plan import Plan, make_plan
from hapsync.plan.simulate import after, as_new_worker, grow
from hapsync.plan.target import target_now

CANARY = Server("one", Address("127.0.0.1", 9), AdminState.READY, 77, is_up=True)
TEMPLATE = """\
global
    stats socket /s level admin
backend canary
    server one 127.0.0.1:9 weight 77
backend web
    {{ servers("web") }}
backend after
    server one 127.0.0.1:9 weight 77
"""
CONFIG = Config(backends={"web": BackendConfig(service="web", tags=("wanted",), slots=2)})
PROCESS = HAProxyProcess(7, "2.6.12", 100, is_stopping=False)

COMMAND_SIGNS = frozenset(f"{string.ascii_letters}{string.digits} _:./-")
PRINTABLE = frozenset(chr(code) for code in range(32, 127))
COMMAND = re.compile(
    r"set server web/srv[1-9][0-9]{0,3} "
    r"(?:addr [0-9a-f.:]{3,39} port [1-9][0-9]{0,4}|weight [0-9]{1,3}|state (?:ready|drain|maint))"
)
SERVER_LINE = re.compile(
    r"    server srv[1-9][0-9]{0,3} (?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}"
    r" weight [0-9]{1,3} check(?: disabled)?  # [ -~]*"
)
FIXED_LINES = [line for line in TEMPLATE.split("\n") if "{{" not in line]


class LeakError(AssertionError):
    """Something got through that must not."""


def must(holds: bool, what: str, found: object) -> None:  # noqa: FBT001
    """Raise `LeakError` unless `holds`."""
    if not holds:
        raise LeakError(f"{what}: {found!a:.600}")


class WholePath:
    """HAProxy as the answers before have left it, and a count of what was looked at on the way."""

    def __init__(self) -> None:
        self.served = self.left_out = self.commands = self.lines = 0
        self._observed = Observed({"web": Backend("web"), "canary": Backend("canary", (), (CANARY,))})
        self._reporter = Reporter()
        self._logged: list[str] = []
        self._view: View | None = None
        self._handler = logging.Handler()
        self._handler.emit = lambda record: self._logged.append(record.getMessage())  # type: ignore[method-assign]

    def walk(self, body: bytes) -> str:
        """Take one answer all the way; return the text of the file. Raises `LeakError`."""
        reading = parse_reading("web", body)
        self.served += len(reading.instances)
        self.left_out += len(reading.quarantined)
        self._snapshot(reading)
        wanted = desired(Catalog({"web": reading}), CONFIG)
        short = [shortage.backend for shortage in diff(wanted, self._observed).shortages]
        if short:
            self._observed = as_new_worker(grow(self._observed, wanted, short))
        plan = self._plan(wanted)
        self._log(plan)
        self._observed = as_new_worker(after(self._observed, plan.changes))
        text = self._file(wanted)
        self._status(wanted, text)
        must(self._observed.backends["canary"].foreign == (CANARY,), "the canary changed", self._observed)
        return text

    def show(self) -> None:
        """Print what `hapsync status` would after the last answer."""
        assert self._view is not None
        print_view(self._view)

    def _snapshot(self, reading: Reading) -> None:
        text = snapshot_to_json(Snapshot({"web": reading}))
        must(PRINTABLE.issuperset(text), "the snapshot is not plain", text)
        back = snapshot_from_json(text)
        must(back is not None and back.readings == {"web": reading}, "the snapshot says something else", text)

    def _plan(self, wanted: Desired) -> Plan:
        plan = make_plan(diff(wanted, self._observed), self._observed)
        must(not plan.shortages, "short of slots", plan.shortages)
        pairs = [
            *address_commands(plan.incoming),
            *state_commands(plan.incoming),
            *state_commands(plan.outgoing),
        ]
        for _, command in pairs:
            must(COMMAND_SIGNS.issuperset(command.line), "a command with a strange sign", command.line)
            must(COMMAND.fullmatch(command.line) is not None, "a command that is none of ours", command.line)
        self.commands += len(pairs)
        _plain_lines("the plan", str(plan), len([*plan.changes, *plan.waiting, *plan.deferred]))
        return plan

    def _log(self, plan: Plan) -> None:
        self._logged.clear()
        look = Assessment(PROCESS, self._observed, plan)
        refused = [
            Refusal(change, command, f"No such server.\n\x1b[2J{command.line}\n")
            for change, command in state_commands(plan.changes[:3])
        ]
        logger = logging.getLogger("hapsync")
        logger.addHandler(self._handler)
        logger.setLevel(logging.DEBUG)
        try:
            outcome = Outcome(look, look, tuple(plan.changes), tuple(refused), ("web",))
            self._reporter.note_pass(outcome, 0.1)
        finally:
            logger.removeHandler(self._handler)
            logger.setLevel(logging.NOTSET)
        must(bool(self._logged), "nothing was logged", plan)
        for line in self._logged:
            _plain_lines("a line of the log", line, 1)
        self.lines += len(self._logged)

    def _file(self, wanted: Desired) -> str:
        target = target_now(wanted, self._observed)
        labels = labels_of(wanted, None, CONFIG.backends)
        text = render(Template("t", TEMPLATE), target, CONFIG, labels)
        must(PRINTABLE.issuperset(text.replace("\n", "")), "the file is not plain", text)
        lines = text.split("\n")[2:]  # without the header and its checksum
        servers = [line for line in lines if line.startswith("    server srv")]
        for line in servers:
            must(SERVER_LINE.fullmatch(line) is not None, "a line that is no server of ours", line)
        must(len(servers) == len(target.backends["web"].slots), "not a line for each slot", servers)
        rest = [line for line in lines if line not in set(servers)]
        must(rest == FIXED_LINES, "another line than the template's", rest)
        self.lines += len(lines)
        return text

    def _status(self, wanted: Desired, file_text: str) -> None:
        observed = Observed({"web": attrs.evolve(self._observed.backends["web"], foreign=(CANARY,))})
        self._view = view = View(
            config=CONFIG,
            seen=assess(PROCESS, observed, wanted, Rules()),
            desired=wanted,
            has_catalog=True,
            rules=Rules(),
            catalog_from="agent",
            catalog_age_seconds=1.0,
            health={},
            file_text=file_text,
            report=None,
            problems=(),
        )
        text = view_to_json(view)
        must(PRINTABLE.issuperset(text.replace("\n", "")), "the JSON of status is not plain", text)
        (left_out,) = [backend["quarantined"] for backend in json.loads(text)["backends"].values()]
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            self.show()
        # One for each server but free ones and for each left out; besides: verdict, agent, blank, backend, header.
        count = len([row for row in view.backends[0].rows if row.use != "free"]) + len(left_out)
        count += len([row for row in view.backends[0].rows if row.desired and row.desired.consul_weight is not None])
        _plain_lines("status", shown.getvalue(), count + len(view.backends[0].without_slot) + len(view.reasons) + 5)
        self.lines += count


def _plain_lines(what: str, text: str, most: int) -> None:
    must(PRINTABLE.issuperset(text.replace("\n", "")), f"{what} is not plain", text)
    lines = _lines(text)
    must(len(lines) <= most, f"{what} has {len(lines)} lines instead of {most}", text)


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


def walk_all(answers: Iterable[bytes]) -> WholePath:
    """Walk all of `answers`, one HAProxy after the other's changes. Raises `LeakError`."""
    path = WholePath()
    for body in answers:
        path.walk(body)
    return path
