"""Lines with quotes, escapes, tabs, odd comments: each reader of a haproxy.cfg takes them as their plain spelling."""

from collections.abc import Callable

import pytest

from hapsync.config.schema import BackendConfig
from hapsync.haproxy.cfg import (
    comments_in,
    default_server_words,
    enabled_servers,
    observed_from_file,
    parse_sections,
    server_options_in,
    slot_names,
    start_disabled,
    stats_sockets,
    stick_tables,
)
from hapsync.haproxy.cfg_diff import Difference, difference, plain_backends
from hapsync.haproxy.check_errors import backends_at_fault
from hapsync.haproxy.dangers import fatal_addition, safe_defaults, takes_servers
from hapsync.haproxy.foreign import losses
from hapsync.haproxy.lint import lint
from hapsync.model.server import Address, AdminState, Backend, Observed, Server
from hapsync.plan.desired import Desired
from hapsync.plan.target import TargetState

FILE = """\
global
    stats socket /run/haproxy.sock level admin
defaults apps
    mode http
    option external-check
    default-server disabled
backend web from apps
    stick on src table mates/a
    balance source
    option httpchk
    cookie SRV insert
    server main 10.0.0.9:80 check
    server srv1 10.0.0.1:80 weight 1 check  # free
    server srv2 10.0.0.2:80 weight 1 check disabled  # free
backend web
    server-template more 3 10.0.0.8:80
    server srv3 10.0.0.3:80 weight 2 check  # free
defaults bare
    mode http
backend plain from bare
    server srv1 10.0.0.1:80 weight 1 agent-check enabled  # free
"""
SPELLINGS: dict[str, Callable[[str], str]] = {
    "double quotes": lambda word: f'"{word}"',
    "single quotes": lambda word: f"'{word}'",
    "quotes within": lambda word: f"{word[0]}''\"{word[1:]}\"",
    "an escape": lambda word: f"\\x{ord(word[0]):02x}{word[1:]}",
    "no quotes": str,
    "tabs": lambda word: f"\t{word}\x0b",
}
FOREIGN = tuple(
    Server(name, Address("10.0.1.1", 80), AdminState.READY, 1, is_up=True) for name in ("main", "more2", "gone")
)
SEEN = Observed({"web": Backend("web", foreign=FOREIGN)})
TARGET = TargetState(SEEN.backends)
ALERT = "[ALERT]    (9) : config : parsing [/etc/haproxy.cfg:13] : no such file"
USERS: dict[str, Callable[[str], object]] = {
    "comments_in": comments_in,
    "slot_names": slot_names,
    "enabled_servers": enabled_servers,
    "server_options_in": lambda text: server_options_in(parse_sections(text)),
    "default_server_words": lambda text: default_server_words(parse_sections(text)),
    "start_disabled": start_disabled,
    "stats_sockets": stats_sockets,
    "stick_tables": lambda text: stick_tables(parse_sections(text)),
    "takes_servers": lambda text: takes_servers(parse_sections(text)),
    "fatal_addition": lambda text: [fatal_addition(parse_sections(text), name, "check") for name in ("web", "plain")],
    "safe_defaults": lambda text: safe_defaults(parse_sections(text), is_checked=False),
    "plain_backends": plain_backends,
    "difference": lambda text: difference(FILE, text),
    "backends_at_fault": lambda text: backends_at_fault(ALERT, text, "haproxy.cfg"),
    "observed_from_file": lambda text: observed_from_file(text, ("web", "plain"), with_foreign=True),
    "losses": lambda text: losses(SEEN, text, TARGET, Desired({}), {}),
    "lint": lambda text: lint(text, {"web": BackendConfig(service="web")}),
}


def spelt(how: Callable[[str], str]) -> str:
    """Return FILE with each word spelt otherwise, and each line ended with a carriage return as well."""
    lines = []
    for line in FILE.splitlines():
        code, mark, comment = line.partition("#")
        lines.append(f"    {' '.join(map(how, code.split()))}  {mark}{comment}\r\n")
    return "".join(lines)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_reader_takes_an_odd_spelling_as_the_plain_one(user: str, spelling: str) -> None:
    assert USERS[user](spelt(SPELLINGS[spelling])) == USERS[user](FILE)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "line",
    [
        'log-format "a # server srv9 10.0.0.9:80"',
        "log-format 'a # b' # \"",
        "log-format a\\#b\\\"c\\'",
        "log-format a # it's a comment",
        'acl one path "$X"',
        'log-format "it\'s"',
        "\t\x0b\x0c",
    ],
)
def test_an_odd_line_stays_a_line_of_its_own(user: str, line: str) -> None:
    first, rest = FILE.split("    mode http\n", 1)
    plain = f"{first}    mode http\n    log-format x\n{rest}"
    odd = plain.replace("log-format x", line)

    if user == "difference":
        assert difference(plain, odd) == (Difference() if line == "log-format x" else None)
    else:
        assert USERS[user](odd) == USERS[user](plain)


def test_what_the_readers_say_of_the_file_is_not_nothing() -> None:
    assert [name for name, ask in USERS.items() if not ask(FILE)] == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_difference_is_one_however_it_is_spelt(spelling: str) -> None:
    other = FILE.replace("balance source", "balance uri")

    assert difference(other, spelt(SPELLINGS[spelling])) is None


@pytest.mark.parametrize("variable", ["$X", "${X}", "${X-main}"])
def test_what_the_environment_says_is_not_known(variable: str) -> None:
    def with_variable(word: str) -> str:
        return FILE.replace(word, f'"{variable}"', 1)

    assert [str(one) for one in losses(SEEN, with_variable("main"), TARGET, Desired({}), {})] == []
    assert losses(SEEN, FILE.replace("main", "other"), TARGET, Desired({}), {})
    assert fatal_addition(parse_sections(with_variable("httpchk")), "web", "check")
    assert takes_servers(parse_sections(with_variable("roundrobin"))) == takes_servers(parse_sections(FILE))
