"""Where descriptors are short, some services are not read, which is said; HAProxy and the others go on."""

import json
import resource
import time
from typing import Any

import pytest

from hapsync.system import process
from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.harness.processes import Process, wait_until

LIMIT = 32
SERVICES = tuple(f"s{number:02}" for number in range(40))
SAID = "no file descriptor is left for it; raise LimitNOFILE"


def services(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage.work / "run" / "status.json").read_text())["services"]
    return found


def whole(told: dict[str, Any]) -> dict[str, Any]:
    """What is told, once every service was read or could not be; nothing before."""
    is_whole = len(told) == len(SERVICES) and all(one["error"] or one["confirmed_at"] for one in told.values())
    return told if is_whole else {}


def test_with_too_few_descriptors_haproxy_and_the_services_that_have_one_go_on() -> None:
    with Stage(dict.fromkeys(SERVICES, 2), agent=False) as stage:
        command = (
            "prlimit",
            f"--nofile={LIMIT}:{LIMIT}",
            "--",
            str(HAPSYNC),
            "agent",
            "--config",
            str(stage.config_path),
        )
        stage.agent = Process(command, stage.work / "agent.log")
        wait_until(lambda: any(one["error"] for one in services(stage).values()), 30, "a service without descriptor")
        time.sleep(3)
        told = wait_until(lambda: whole(services(stage)), 30, "each service to be read or not")
        read = [name for name, one in told.items() if one["error"] is None]
        unread = {name: one["error"] for name, one in told.items() if one["error"]}
        log = (stage.work / "agent.log").read_text()
        with Fleet(stage, read[-1]) as fleet:
            for _ in range(2):
                fleet.add()
            stage.wait_equal(read[-1])
        status = stage.hapsync("status")

    assert len(read) >= 3
    assert len(read) + len(unread) == len(SERVICES)
    assert all(SAID in error for error in unread.values())
    assert SAID in log
    assert SAID in status.stdout
    assert log.count(SAID) <= 2 * len(SERVICES)
    assert "Traceback" not in log
    assert "no file descriptor" not in "\n".join(line for line in log.splitlines() if " haproxy " in line)


@pytest.mark.parametrize(("descriptor", "enough"), [(0, True), (1007, True), (1008, False), (1023, False)])
def test_a_few_descriptors_are_kept_for_haproxy(
    monkeypatch: pytest.MonkeyPatch,
    descriptor: int,
    enough: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 4096))

    assert process.leaves_spare_files(descriptor) is enough
