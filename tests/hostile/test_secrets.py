"""A token is sent to Consul and nowhere else: not to a log, a report, an error or a screen."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.harness.consul import acl_consul
from tests.harness.processes import Process, wait_until

SECRET = "s3cret-0f-the-0perator"
KEYS = {
    "config": f'token = "{SECRET}"',
    "file": 'token_file = "{work}/token"',
    "environment": "",
}


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Everything but the agent, at debug level."""
    with Stage({"web": 4}, agent=False) as stage:
        text = stage.config_path.read_text()
        stage.config_path.write_text(text.replace("[agent]\n", '[agent]\nlog_level = "debug"\n', 1))
        yield stage


def give(stage: Stage, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the token in one of the three ways there are."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", SECRET if way == "environment" else "")
    (stage.work / "token").write_text(f"{SECRET}\n")
    key = KEYS[way].format(work=stage.work)
    stage.config_path.write_text(stage.config_path.read_text().replace("[consul]\n", f"[consul]\n{key}\n", 1))


def everything_said(stage: Stage) -> str:
    """What the agent logged and wrote, and what every command says."""
    said = [stage.hapsync("check"), stage.hapsync("status"), stage.hapsync("status", "--json")]
    kept = (*stage.work.glob("run/*"), *stage.work.glob("state/*"), stage.work / "agent.log", stage.haproxy.config)
    return "\n".join(
        [one.stdout + one.stderr for one in said]
        + [path.read_text(errors="replace") for path in kept if path.is_file()]
    )


def start(stage: Stage) -> None:
    command = (str(HAPSYNC), "agent", "--config", str(stage.config_path))
    stage.agent = Process(command, stage.work / "agent.log", environment=dict(os.environ))
    wait_until((stage.work / "run" / "status.json").exists, 20, "the agent's report", process=stage.agent)


@pytest.mark.parametrize("way", KEYS)
def test_a_token_that_works_is_said_nowhere(stage: Stage, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give(stage, way, monkeypatch)
    start(stage)
    with Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        said = everything_said(stage)

    assert len(said) > 1000
    assert SECRET not in said
    assert SECRET not in Path(f"/proc/{stage.agent.pid}/cmdline").read_text()


def test_a_token_that_consul_refuses_is_said_nowhere(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    give(stage, "file", monkeypatch)
    with acl_consul(stage.work) as consul:
        stage.config_path.write_text(stage.config_path.read_text().replace(stage.consul.url, consul.url))
        start(stage)
        log = stage.work / "agent.log"
        wait_until(lambda: "answered 403" in log.read_text(), 20, "Consul to refuse the token")
        said = everything_said(stage)

    assert "answered 403" in said
    assert SECRET not in said


def test_a_token_that_cannot_be_one_is_said_nowhere(stage: Stage) -> None:
    token, settings = stage.work / "token", stage.config_path.read_text()
    for text in (f"{SECRET} two words", f"{SECRET}\xe9", f"{SECRET}\x1b[0m"):
        token.write_text(text)
        for key, value in (("token", text.replace("\x1b", "\\u001b")), ("token_file", str(token))):
            stage.config_path.write_text(settings.replace("[consul]\n", f'[consul]\n{key} = "{value}"\n', 1))
            ended = stage.hapsync("plan")

            assert ended.returncode != 0
            assert key in ended.stderr
            assert SECRET not in ended.stdout + ended.stderr
