"""Commands that root runs while the agent is stopped leave nothing behind that the agent's user cannot open."""

import os

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.edge.test_files import NOBODY

COMMANDS = {
    "freeze": ("freeze", "--for", "60s"),
    "hold": ("hold", "web/srv1"),
    "apply": ("apply",),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_root_does_while_the_agent_is_stopped_is_read_by_the_agents_user(command: tuple[str, ...]) -> None:
    with Stage({"web": 2}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        stage.stop_agent()
        folder = stage.work / "state"
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        (folder / "lock").unlink()

        done = stage.hapsync(*command)

        assert done.returncode == 0, done
        owners = {path.name: path.stat().st_uid for path in folder.iterdir()}
        assert set(owners.values()) == {NOBODY}, owners
