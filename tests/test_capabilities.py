"""What the probe's answers mean for the means of a backend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from hapsync.config.schema import BackendConfig, Config, HAProxyConfig
from hapsync.haproxy.capabilities import NEWEST_SCANNED, probe_command, scaling_of, spelled_out, version_of
from hapsync.haproxy.cfg import sealed
from hapsync.haproxy.commands import SHOW_FILES, Command, Refusal
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.socket import RuntimeSession
from hapsync.model.changes import Create, Reason
from hapsync.model.server import SLOTS_ONLY, Address, Backend, HAProxyProcess, Observed, Scaling
from hapsync.plan.simulate import FREE_SLOT

YES = "Already exists a server with the same name in backend.\n"
SLOTS = Backend("web", (attrs.evolve(FREE_SLOT, name="srv3"),))
STATIC = "Backend must use a dynamic load balancing to support dynamic servers.\n"


def backend(**keys: Any) -> BackendConfig:
    return BackendConfig(service="web", **keys)


def test_a_backend_is_probed_with_a_server_that_it_has() -> None:
    command = probe_command(SLOTS)

    assert command.line == "add server web/srv3 127.0.0.1:1"


def probe_of(work: Path, reply: str | None, backend: Backend = SLOTS) -> tuple[Probe, Scaling]:
    """Probe `backend` of HAProxy 3.4, which answers `reply`, None where nothing may be asked; return its scaling."""
    file = work / "haproxy.cfg"
    file.write_text(sealed("backend web\n    balance roundrobin\n"))
    config = Config(haproxy=HAProxyConfig(config=str(file)), backends={"web": BackendConfig(service="web")})

    class Session:
        def ask(self, commands: Sequence[Command]) -> Sequence[str]:
            if commands == (SHOW_FILES,):
                return [f"HAPROXY_CFGFILES={file}\n"]
            return [cast("str", reply) for _ in commands]

    probe = Probe(config)
    process = HAProxyProcess(1, "3.4.7", 1, is_stopping=False)
    observed = probe.attach(cast("RuntimeSession", Session()), process, Observed({"web": backend}))
    return probe, observed.backends["web"].scaling


def test_a_backend_without_a_server_of_ours_is_not_probed_and_has_its_slots_only(tmp_path: Path) -> None:
    assert probe_of(tmp_path, None, Backend("web"))[1] == SLOTS_ONLY


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (STATIC, "HAProxy says: Backend must use a dynamic load balancing to support dynamic servers."),
        ("Permission denied\n", "HAProxy says: Permission denied"),
        ("", "HAProxy says: "),
    ],
)
def test_a_backend_whose_probe_is_refused_has_its_slots_only_and_says_why(
    tmp_path: Path, reply: str, why: str
) -> None:
    assert probe_of(tmp_path, reply)[1] == Scaling(can_wait=True, why=why)


@pytest.mark.parametrize("version", [(3, 0), (3, 2), (3, 3), NEWEST_SCANNED])
def test_from_3_0_on_servers_are_added_where_haproxy_takes_them(version: tuple[int, int]) -> None:
    assert scaling_of(version, backend()) == Scaling(can_add=True, can_wait=True)


def test_before_3_0_servers_are_added_only_where_it_was_asked_for() -> None:
    assert scaling_of((2, 6), backend(scaling="dynamic")).can_add
    assert not scaling_of((2, 6), backend()).can_add
    assert "are deleted late" in scaling_of((2, 8), backend()).why


@pytest.mark.parametrize(
    ("version", "config", "why"),
    [
        ((3, 0), backend(scaling="slots"), 'scaling = "slots"'),
        ((2, 4), backend(scaling="dynamic"), "experimental"),
        ((0, 0), backend(), "experimental"),
        ((3, 0), backend(server_options="check stick init-state"), "has stick, which"),
        ((3, 0), backend(server_options="check sni a;b"), "would take apart"),
        ((3, 0), backend(server_options="check sni <<"), "would take apart"),
    ],
)
def test_where_servers_cannot_be_added_it_says_why(version: tuple[int, int], config: BackendConfig, why: str) -> None:
    scaling = scaling_of(version, config)

    assert not scaling.can_add
    assert why in scaling.why


def test_a_default_server_line_is_not_heeded_by_added_servers() -> None:
    scaling = scaling_of((3, 0), backend(), ["inter", "2s"])

    assert not scaling.can_add
    assert "default-server inter 2s" in scaling.why


def test_a_refusal_ends_the_adding_but_for_a_name_that_is_there_already(tmp_path: Path) -> None:
    probe, taken = probe_of(tmp_path, YES)
    change = Create("web", "dyn-a-1000001", Address("10.0.0.1", 80), 1, "", Reason.PASSING)

    def noted(reply: str, line: str = "add server web/dyn-a-1000001 10.0.0.1:80 weight 0") -> Scaling:
        probe.note([Refusal(change, Command(line), reply)])
        return probe.scaling["web"]

    assert taken.can_add
    assert noted(YES.strip()) == taken
    assert noted("No such server.", "set server web/dyn-a-1000001 weight 0") == taken
    assert noted("'xyz' option is not accepted for dynamic server") == attrs.evolve(
        taken, can_add=False, why="HAProxy refused `add server`: 'xyz' option is not accepted for dynamic server"
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.6.12-1+deb12u4", (2, 6)), ("3.4.7", (3, 4)), ("3.5-dev5-50872d", (3, 5)), ("", (0, 0)), ("x", (0, 0))],
)
def test_a_version_is_its_first_two_numbers(text: str, version: tuple[int, int]) -> None:
    assert version_of(text) == version


def test_a_newer_haproxy_than_was_scanned_is_given_servers_only_where_it_was_asked_for() -> None:
    newer = (NEWEST_SCANNED[0], NEWEST_SCANNED[1] + 1)

    assert "was not tried" in scaling_of(newer, backend()).why
    assert scaling_of(newer, backend(scaling="dynamic")).can_add


@pytest.mark.parametrize(("version", "can_add"), [((3, 0), False), ((3, 1), False), ((3, 2), True)])
def test_no_server_is_added_that_haproxy_may_die_of_when_it_is_deleted(
    version: tuple[int, int],
    can_add: bool,  # noqa: FBT001
) -> None:
    assert scaling_of(version, backend(server_options="check ssl check-alpn h2")).can_add is can_add


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("check inter 1s", ()),
        ("ssl verify none", ()),
        ("check ssl verify none", ("check-ssl",)),
        ("ssl check check-ssl", ()),
        ("check ssl port 81", ()),
        ("check ssl addr 10.0.0.1", ()),
        ("check send-proxy", ("check-send-proxy",)),
        ("check send-proxy-v2", ("check-send-proxy",)),
        ("check send-proxy-v2-ssl-cn ssl", ("check-ssl", "check-send-proxy")),
        ("check send-proxy check-send-proxy", ()),
        ("check send-proxy no-send-proxy", ()),
        ("check no-send-proxy send-proxy", ("check-send-proxy",)),
        ("send-proxy agent-check agent-port 1", ()),
    ],
)
def test_what_a_line_of_the_file_implies_is_spelled_out_for_an_added_server(
    options: str, words: tuple[str, ...]
) -> None:
    assert spelled_out((3, 0), options) == words
    assert spelled_out((2, 6), options) == (*words, "pool-max-conn", "-1", "pool-purge-delay", "5s")
    assert scaling_of((3, 0), backend(server_options=options)).implied == words


def test_what_is_said_of_idle_connections_is_heeded() -> None:
    assert spelled_out((2, 8), "pool-max-conn 3") == ("pool-purge-delay", "5s")
    assert spelled_out((2, 8), "pool-max-conn 3 pool-purge-delay 1s") == ()


def test_where_haproxy_might_die_of_a_server_none_is_added_whatever_means_says() -> None:
    scaling = scaling_of((3, 2), backend(scaling="dynamic"), danger="it would die")

    assert scaling == Scaling(can_wait=True, why="it would die")
