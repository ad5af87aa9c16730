"""Whatever stands in Consul's catalog, nothing leaves hapsync but plain commands, plain lines and plain JSON."""

import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hapsync import text
from hapsync.cli import tables
from hapsync.consul import health as catalog
from hapsync.errors import ConfigError
from hapsync.haproxy import commands as runtime
from tests.harness.tools import haproxy_path
from tests.hostile.attack import Attacker
from tests.hostile.whole_path import LeakError, WholePath, walk_all

SEED = int(os.environ.get("HOSTILE_SEED", "20250"))
VALUES = 120_000
INSTANCES = 60


def test_a_hundred_thousand_hostile_values_leave_nothing_but_plain_text() -> None:
    print(f"HOSTILE_SEED={SEED}")
    attacker = Attacker(SEED)
    path = WholePath()
    while attacker.made < VALUES:
        for body in attacker.answers(5, INSTANCES):
            path.walk(body)
    print(f"{attacker.made} values: {path.served} served, {path.left_out} left out, {path.commands} commands")

    assert path.served > VALUES / 50  # most got all the way, or this would show little
    assert path.left_out > VALUES / 200
    assert path.commands > VALUES / 20
    assert path.lines > VALUES / 20


def test_the_same_seed_gives_the_same_attacks() -> None:
    one, same, other = (list(Attacker(seed).answers(2, 20)) for seed in (1, 1, 2))

    assert one == same
    assert one != other


def test_haproxy_itself_finds_the_servers_and_nothing_else_in_the_most_hostile_file(work: Path) -> None:
    attacker, path = Attacker(SEED), WholePath()
    config = work / "haproxy.cfg"
    longest = attacker.entry()
    longest["Node"]["Node"] = longest["Service"]["ID"] = "\U0001f642" * 300
    longest["Service"] |= {"Address": "10.200.0.1", "Port": 80, "Weights": None, "Service": "web"}
    longest["Checks"] = []
    for body in attacker.answers(4, 400):
        answer = json.dumps([longest, *json.loads(body)]).encode()
        config.write_text(path.walk(answer).replace("/s level", f"{work}/s level"))
        done = subprocess.run(
            (haproxy_path(), "-c", "-V", "-f", str(config)), capture_output=True, text=True, timeout=60, check=False
        )
        said = done.stdout + done.stderr

        assert done.returncode == 0, said[-2000:]
        assert "ALERT" not in said, said[-2000:]
        assert "line too long" not in said, said[-2000:]
        assert max(map(len, config.read_text().split("\n"))) > 500


def raw_host(text: str) -> str:
    """`canonical_host` with one hole: what is no address passes if a semicolon is in it."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if ";" in text:
            return text
        raise


def letting(sign: str) -> Callable[..., str]:
    """`shown` with one hole: `sign` stays as it is."""
    shown = text.shown

    def holed(given: str, *, length: int = 128) -> str:
        return sign.join(shown(part, length=length) for part in given.split(sign))

    return holed


@pytest.mark.parametrize(
    ("sign", "leak"),
    [
        ("\n", "another line than the template's|no server of ours|does not stand under"),
        ("\x1b", "is not plain|no server of ours"),
        ("\u2028", "is not plain|no server of ours"),
        ("\0", "is not plain|no server of ours"),
        ("é", "is not plain|no server of ours"),
    ],
    ids=ascii,
)
def test_one_sign_that_is_not_escaped_is_noticed_in_the_file(
    monkeypatch: pytest.MonkeyPatch, sign: str, leak: str
) -> None:
    monkeypatch.setattr(text, "shown", letting(sign))

    with pytest.raises((LeakError, ConfigError), match=leak):
        walk_all(Attacker(SEED).answers(100, INSTANCES))


@pytest.mark.parametrize("sign", ["\n", "\x1b", "\x85", "é"], ids=ascii)
def test_one_sign_that_is_not_escaped_is_noticed_on_the_terminal(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    monkeypatch.setattr(tables, "shown", letting(sign))

    with pytest.raises(LeakError, match="status"):
        walk_all(Attacker(SEED).answers(100, INSTANCES))


def one_command_too_many() -> bytes:
    """An answer with one instance that would serve, if only its address were one."""
    entry = Attacker(SEED).entry()
    entry["Service"] |= {
        "Address": "10.0.0.1; set server canary/one weight 0",
        "Port": 80,
        "Weights": None,
        "Service": "web",
    }
    return json.dumps([{**entry, "Checks": []}]).encode()


@pytest.fixture
def holed_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "canonical_host", raw_host)
    monkeypatch.setattr(catalog, "why_refused", lambda _host: "")


@pytest.mark.usefixtures("holed_address")
def test_one_sign_that_passes_as_an_address_is_noticed_by_the_last_whitelist() -> None:
    with pytest.raises(ValueError, match="not a line for the Runtime API"):
        walk_all([one_command_too_many()])


@pytest.mark.usefixtures("holed_address")
def test_one_sign_that_passes_all_whitelists_is_noticed_in_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_LINE", re.compile(r"[A-Za-z0-9_:./ ;-]+"))

    with pytest.raises(LeakError, match="a command with a strange sign"):
        walk_all([one_command_too_many()])


@pytest.mark.usefixtures("holed_address")
def test_one_sign_that_passes_as_an_address_is_noticed_by_the_campaign() -> None:
    with pytest.raises((LeakError, ValueError)):
        walk_all(Attacker(SEED).answers(100, INSTANCES))


def test_a_port_that_is_not_looked_at_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_PORT", 2**40)

    with pytest.raises((LeakError, ValueError)):
        walk_all(Attacker(SEED).answers(100, INSTANCES))


def test_json_that_is_not_escaped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def dumps(tree: object, *, indent: int) -> str:
        return json.dumps(tree, indent=indent, ensure_ascii=False)

    monkeypatch.setattr("hapsync.inspect.status.json", SimpleNamespace(dumps=dumps))

    with pytest.raises(LeakError, match="is not plain"):
        walk_all(Attacker(SEED).answers(100, INSTANCES))
