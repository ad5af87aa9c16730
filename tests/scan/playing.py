"""One case on one HAProxy, a process of its own: does it live, and is an added server like one of the file."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hapsync.haproxy.capabilities import spelled_out
from hapsync.haproxy.commands import address_commands, state_commands
from hapsync.model.changes import Create, Reason
from hapsync.model.server import Address, dynamic_id
from hapsync.plan.diff import REST_SECONDS
from tests.harness.ports import free_ports
from tests.harness.processes import Process, ProcessDiedError
from tests.scan.cases import Case
from tests.scan.listener import AgentListener, Certificates, Listener

SAME, LIVES, DIES, HANGS = "same", "lives", "dies", "hangs"
NOT_THERE, NOT_TAKEN = "not in this version", "not taken"
ANSWER_SECONDS = 30.0
"""After this a process that lives and does not answer hangs; under any load of the machine it does before."""
SETTLE_SECONDS = 8.0
"""How long the two servers may take to be alike."""
_ADDITIONS = 5
"""Each over a connection of its own, which HAProxy gives to one of its threads."""
_REQUESTS = 3
_ADDED = "New server registered."
_STAT = (
    *("status", "weight", "act", "bck", "qlimit", "slim", "tracked", "check_status", "agent_status", "mode"),
    *("check_rise", "check_fall", "check_health", "agent_rise", "agent_fall", "agent_health"),
)
_STATE = (
    *(
        "srv_op_state",
        "srv_uweight",
        "srv_check_state",
        "srv_agent_state",
        "srv_use_ssl",
        "srv_check_port",
        "srv_check_addr",
        "srv_agent_addr",
        "srv_agent_port",
        "srv_fqdn",
    ),
)
_CONNECTIONS = ("purge_delay", "idle_lim")


class RefusedError(Exception):
    """HAProxy did not take the server."""


def lives(
    program: str, case: Case, folder: Path, certificates: Certificates, rest_seconds: float = REST_SECONDS
) -> str:
    """Add servers, let their checks run, take them out, delete them after a rest; return what became of HAProxy."""
    with _listeners(certificates) as (listener, _, agent):
        values = _values(folder, listener, agent)
        text = _config(folder, case, values, threads=4, ways="")
        try:
            with _haproxy(program, folder, text) as (process, path):
                return _add_and_delete(process, path, case.words.format_map(values), values["address"], rest_seconds)
        except ProcessDiedError:
            return NOT_THERE


def _add_and_delete(process: Process, path: Path, words: str, address: object, rest_seconds: float) -> str:
    names = [f"live/x{number}" for number in range(_ADDITIONS)]
    try:
        for name in names:
            said = _ask(path, f"add server {name} {address} {words}").strip()
            if _ADDED not in said.splitlines():
                return f"{NOT_TAKEN}: {said}"
            for line in (f"enable health {name}", f"enable agent {name}", f"set server {name} state ready"):
                _ask(path, line)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            _ask(path, "show stat")
            time.sleep(0.05)
        for name in names:
            _ask(path, f"set server {name} state maint")
        time.sleep(rest_seconds)
        for name in names:
            _ask(path, f"del server {name}")
        _ask(path, "show info")
    except OSError:
        return _what_became_of(process)
    return LIVES


def _what_became_of(process: Process) -> str:
    """Return how a process that does not answer is, after as long as one takes to die."""
    until = time.monotonic() + ANSWER_SECONDS
    while process.running and time.monotonic() < until:
        time.sleep(0.05)
    return HANGS if process.running else DIES


def difference(
    program: str, version: tuple[int, int], case: Case, folder: Path, certificates: Certificates, *, spelled: bool
) -> str:
    """Return how a server that was added differs from one with the same words in the file; `SAME` where it does not.

    `spelled`: it is added as hapsync does, with the words that a line of the file implies.
    """
    with _listeners(certificates) as (of_file, of_live, agent):
        values = _values(folder, of_file, agent)
        frontends = free_ports(2)
        ways = "".join(
            f"frontend to-{name}\n    bind 127.0.0.1:{port}\n    default_backend {name}\n"
            for name, port in zip(("file", "live"), frontends, strict=True)
        )
        text = _config(folder, case, values, threads=1, ways=ways)
        words = case.words.format_map({**values, "port": of_live.port})
        if spelled:
            words = " ".join((words, *spelled_out(version, words)))
        try:
            with _haproxy(program, folder, text) as (process, path):
                try:
                    _add(path, Address("127.0.0.1", of_live.port), words)
                    return _compare(path, case, (of_file, of_live), frontends)
                except OSError:
                    return _what_became_of(process)
        except ProcessDiedError:
            return NOT_THERE
        except RefusedError as error:
            return f"{NOT_TAKEN}: {error}"


def _add(path: Path, address: Address, words: str) -> None:
    change = Create("live", "dyn-live-1000001", address, 1, "", Reason.PASSING)
    try:
        change = Create("live", "dyn-live-1000001", address, 1, words, Reason.PASSING)
        commands = [command.line for _, command in (*address_commands([change]), *state_commands([change]))]
    except ValueError:  # hapsync sends no such words
        number = dynamic_id(change.server)
        commands = [f"add server live/{change.server} {address} id {number} weight 0 {words}"]
        commands += [f"enable health live/{change.server}"]
        commands += [command.line for _, command in state_commands([change])]
    # That of the file comes in from maint, too, as one that is given a slot does.
    commands += [f"set server file/file {what}" for what in ("state maint", "state ready", "weight 1")]
    for line in commands:
        said = _ask(path, line).strip()
        if line.startswith("add server") and _ADDED not in said.splitlines():
            raise RefusedError(said)


def _compare(path: Path, case: Case, listeners: tuple[Listener, Listener], frontends: Sequence[int]) -> str:
    def pair(answers: Sequence[int]) -> tuple[dict[str, object], ...]:
        asked = zip(("file", "live"), listeners, answers, strict=True)
        return tuple(_observed(path, name, listener, answer) for name, listener, answer in asked)

    until = time.monotonic() + SETTLE_SECONDS
    while not all(_is_checked(case, one) for one in pair((0, 0))) and time.monotonic() < until:
        time.sleep(0.1)
    answers = [0, 0]
    if "mode tcp" not in case.lines:
        answers = [min(_request(port) for _ in range(_REQUESTS)) for port in frontends]
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        of_file, of_live = pair(answers)
        different = [key for key, value in of_file.items() if value != of_live.get(key)]
        if not different and _is_checked(case, of_file):
            return SAME
        if time.monotonic() > until:
            return "; ".join(f"{key}: {of_file[key]!s} in the file, {of_live.get(key)!s} added" for key in different)
        time.sleep(0.1)


def _is_checked(case: Case, one: Mapping[str, object]) -> bool:
    watched = {"check": "check_status", "agent-check": "agent_status"}
    return all(one[status] not in {"", "INI"} for word, status in watched.items() if word in case.words.split())


def _observed(path: Path, backend: str, listener: Listener, answer: int) -> dict[str, object]:
    found: dict[str, object] = {"answer": answer}
    header, *rows = (line.split(",") for line in _ask(path, "show stat").splitlines() if line)
    header[0] = header[0].removeprefix("# ")
    for row in rows:
        stat = dict(zip(header, row, strict=False))
        if stat["pxname"] == backend and stat["svname"] in {"file", "dyn-live-1000001"}:
            found |= {name: stat[name] for name in _STAT if name in stat}
    found |= _fields(_ask(path, f"show servers state {backend}"), _STATE)
    found |= _fields(_ask(path, f"show servers conn {backend}"), _CONNECTIONS)
    found["check_status"] = str(found.get("check_status", "")).removeprefix("* ")
    found["agent_status"] = str(found.get("agent_status", "")).removeprefix("* ")
    for name in ("srv_check_port", "srv_agent_port"):
        if found.get(name) == str(listener.port):
            found[name] = "its own"
    # Which bits of a check are set while it runs is a matter of the moment.
    for name in ("srv_check_state", "srv_agent_state"):
        found[name] = int(str(found.get(name, 0))) & 0x06
    found["seen of checks"] = listener.seen(check=True)
    found["seen of requests"] = listener.seen(check=False)
    found["connections of requests"] = listener.connections()
    return found


def _fields(answer: str, wanted: Sequence[str]) -> dict[str, object]:
    _, _, table = answer.partition("# ")
    header, *rows = (line.split(" ") for line in table.splitlines() if line)
    row = dict(zip(header, [one for one in rows if len(one) > 3 and one[3] != "other"][-1], strict=False))
    return {name: row[name] for name in wanted if name in row}


def _request(port: int) -> int:
    """The status that is answered to a request on this port; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", port), 5.0) as one:
        one.sendall(b"GET /request HTTP/1.1\r\nHost: host.test\r\nConnection: close\r\n\r\n")
        head = b""
        while b"\r\n" not in head:
            more = one.recv(4096)
            if not more:
                return 0
            head += more
        return int(head.split(b" ")[1])
    return 0


@contextlib.contextmanager
def _listeners(certificates: Certificates) -> Iterator[tuple[Listener, Listener, int]]:
    first, second, agent = free_ports(3)
    with Listener(first, certificates) as one, Listener(second, certificates) as other, AgentListener(agent):
        yield one, other, agent


def _values(folder: Path, listener: Listener, agent: int) -> dict[str, object]:
    return {"port": listener.port, "address": f"127.0.0.1:{listener.port}", "agent": agent, "folder": str(folder)}


def _config(folder: Path, case: Case, values: Mapping[str, object], *, threads: int, ways: str) -> str:
    lines = "\n".join(f"    {line.format_map(values)}" for line in case.lines)
    mode = "tcp" if "mode tcp" in case.lines else "http"
    return f"""\
global
    stats socket {folder}/admin.sock mode 600 level admin
    nbthread {threads}
    {case.settings.format_map(values)}

defaults
    mode {mode}
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout check 5s
    {"http-reuse always" if mode == "http" and not any("http-reuse" in line for line in case.lines) else ""}

{case.sections.format_map(values)}

{ways}
backend file
{lines}
    server file {values["address"]} {case.words.format_map(values)}

backend live
{lines}
"""


@contextlib.contextmanager
def _haproxy(program: str, folder: Path, text: str) -> Iterator[tuple[Process, Path]]:
    config, path = folder / "haproxy.cfg", folder / "admin.sock"
    config.write_text(text, encoding="utf-8")
    path.unlink(missing_ok=True)
    process = Process((program, "-db", "-f", str(config)), folder / "haproxy.log")
    try:
        _wait_answers(process, lambda: _ask(path, "show info"))
        yield process, path
    finally:
        process.kill()


def _wait_answers(process: Process, ask: Callable[[], object]) -> None:
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        process.check()
        try:
            ask()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _ask(path: Path, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(ANSWER_SECONDS)
        one.connect(str(path))
        one.sendall(line.encode() + b"\n")
        data = b"".join(iter(lambda: one.recv(65536), b""))
    if not data:
        raise ConnectionResetError("HAProxy closed without an answer")
    return data.decode(errors="replace")
