"""What ways need beside HAProxy: Go's tools, told of where they are missing, and the reload that is waited for."""

import subprocess
from pathlib import Path

import pytest

from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.lab.ways import UnavailableError
from tests.lab.ways.consultemplate import TOOL
from tests.lab.ways.way import reload_command


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where nothing was made yet, and with this folder alone on the PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(TOOL.variable, raising=False)
    return tmp_path


def test_a_tool_that_go_cannot_make_says_what_go_said_but_no_address(away: Path) -> None:
    said = "reading https://proxy.invalid/a/@v/list: 403 Forbidden"
    script(away / "nice", 'exec "$@"')
    script(away / "go", f"echo go: downloading a >&2; echo go: {said} >&2; exit 1")

    with pytest.raises(UnavailableError, match=r"failed: go: reading the module proxy: 403 Forbidden$"):
        TOOL.path()
    assert not list((away / "cache" / "hapsync" / "go").glob("consul-template-*"))


def test_a_tool_is_made_once_and_then_found(away: Path) -> None:
    script(away / "nice", 'exec "$@"')
    script(away / "go", f'echo "$@" >>{away}/asked; echo made >"$GOBIN/consul-template"')

    assert Path(TOOL.path()).read_text() == "made\n"
    (away / "go").unlink()
    assert Path(TOOL.path()).read_text() == "made\n"
    assert (away / "asked").read_text() == "install github.com/hashicorp/consul-template@v0.42.1\n"


def test_a_report_has_the_version_or_what_a_program_that_was_named_says_of_itself(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOOL.told() == "v0.42.1"

    script(away / "mine", '[ "$*" = -v ] && echo "consul-template v9.9.9 (mine)"; echo more')
    monkeypatch.setenv("CONSUL_TEMPLATE", "mine")
    assert TOOL.told() == "as $CONSUL_TEMPLATE names it, which says of itself: consul-template v9.9.9 (mine)"

    script(away / "mine", "exit 1")
    assert TOOL.told().endswith("says of itself: nothing")


def test_a_reload_is_over_when_its_command_is_and_none_is_lost_though_they_follow_at_once(work: Path) -> None:
    config = work / "haproxy.cfg"

    def write(count: int) -> None:
        servers = [f"server s{number} 127.0.0.1:{number} disabled" for number in range(1, count + 1)]
        config.write_text(minimal_config(work / "admin.sock", port, {"web": servers}))

    port = free_port()
    write(1)
    with HAProxy(config, work) as haproxy:
        for count in range(2, 22):
            write(count)
            subprocess.run(reload_command(haproxy), check=True, timeout=30)
            assert len(haproxy.servers("web")) == count


def test_where_haproxy_is_down_there_is_nothing_to_reload_and_nothing_wrong(work: Path) -> None:
    subprocess.run(reload_command(HAProxy(work / "haproxy.cfg", work)), check=True, timeout=30)


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
