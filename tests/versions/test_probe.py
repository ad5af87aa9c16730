"""How backends are probed: without a word in HAProxy's log."""

from pathlib import Path

from hapsync.config.schema import BackendConfig, Config, HAProxyConfig
from hapsync.haproxy.capabilities import OLDEST_SAFE, QUIET_PROBE, version_of
from hapsync.haproxy.cfg import sealed
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.socket import RuntimeSession, open_session
from hapsync.model.server import Scaling
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

FEW = 5


def prepared(work: Path, many: int, *lines: str) -> Config:
    """A file of HAProxy's with backends of these lines, and the settings for them."""
    names = [f"b{number}" for number in range(many)]
    server = "server srv1 127.0.0.1:1 weight 1 disabled"
    text = minimal_config(work / "admin.sock", free_port(), dict.fromkeys(names, (*lines, server)))
    file = work / "haproxy.cfg"
    file.write_text(sealed(text), encoding="utf-8")
    return Config(
        haproxy=HAProxyConfig(socket=str(work / "admin.sock"), config=str(file)),
        backends={name: BackendConfig(service=name) for name in names},
    )


def probed(work: Path, many: int, *lines: str) -> tuple[str, dict[str, bool], str, tuple[int, int]]:
    """HAProxy's log before and after a first look, which backends take servers, why not, and HAProxy's version."""
    config = prepared(work, many, *lines)
    with HAProxy(Path(config.haproxy.config), work) as haproxy, open_session(config.haproxy.socket, 20) as session:
        process = session.read_process()
        before = haproxy.log.read_text(encoding="utf-8")
        found = Probe(config).attach(session, process, session.read_servers(tuple(config.backends)))
        said = haproxy.log.read_text(encoding="utf-8").removeprefix(before)
    scaling = {name: backend.scaling for name, backend in found.backends.items()}
    return said, {name: one.can_add for name, one in scaling.items()}, scaling["b0"].why, version_of(process.version)


def test_three_hundred_backends_are_probed_without_a_line_in_the_log(work: Path) -> None:
    said, can_add, _, version = probed(work, 300, "balance leastconn")

    assert "[ALERT]" not in said
    assert set(can_add.values()) == {version >= OLDEST_SAFE}


def test_a_balance_that_is_static_takes_no_servers_and_is_told_in_haproxys_words(work: Path) -> None:
    said, can_add, why, version = probed(work, FEW, "balance static-rr")

    assert "[ALERT]" not in said
    assert not any(can_add.values())
    assert ("load balancing" in why) is (version >= OLDEST_SAFE)


def test_what_the_lines_do_not_tell_haproxy_is_asked_once_a_backend(work: Path) -> None:
    said, can_add, _, version = probed(work, FEW, 'balance "leastconn"')

    assert said.count("[ALERT]") == (FEW if OLDEST_SAFE <= version < QUIET_PROBE else 0)
    assert set(can_add.values()) == {version >= OLDEST_SAFE}


def test_while_haproxys_file_cannot_be_read_no_server_is_added_and_once_it_can_servers_are(work: Path) -> None:
    config = prepared(work, 1, "balance leastconn")
    file, aside = Path(config.haproxy.config), work / "aside.cfg"
    probe = Probe(config)

    def look(session: RuntimeSession) -> Scaling:
        return probe.attach(session, session.read_process(), session.read_servers(("b0",))).backends["b0"].scaling

    with HAProxy(file, work), open_session(config.haproxy.socket, 20) as session:
        is_safe = version_of(session.read_process().version) >= OLDEST_SAFE
        file.rename(aside)
        blind = look(session)
        aside.rename(file)
        wait_until(lambda: look(session).can_add is is_safe, 20, "the file to be read again")

    assert not blind.can_add
    assert ("cannot be read" in blind.why) is is_safe
