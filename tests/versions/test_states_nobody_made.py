"""States that no person made are no person's hand; what a person left behind is told, and can be freed."""

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until

SLOTS = f'{NO_GUARD}\nscaling = "slots"'
BALANCE = "    balance roundrobin\n"


def wait_in_step(stage: Stage) -> None:
    wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say that all is in sync")


@pytest.mark.parametrize("place", ["defaults", "backend"])
def test_servers_that_default_server_disables_serve_from_each_start_on(place: str) -> None:
    with Stage({"web": 3}, backend_options=SLOTS, agent=False) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text(encoding="utf-8")
        line = "    default-server disabled\n"
        text = (
            text.replace(BALANCE, BALANCE + line)
            if place == "backend"
            else text.replace("defaults\n", f"defaults\n{line}")
        )
        template.write_text(text, encoding="utf-8")
        fleet.add()
        deferred = fleet.add()
        assert stage.hapsync("apply").returncode == 0
        stage.wait_equal()
        name = next(one.name for one in stage.haproxy.servers("web").values() if one.port == deferred.port)
        stage.haproxy.ask(f"set server web/{name} state maint")
        assert stage.hapsync("apply").returncode == 0
        stage.haproxy.stop()
        stage.haproxy.start()
        found = stage.haproxy.servers("web")
        applied = stage.hapsync("apply")
        after = stage.haproxy.servers("web")

        serving = [one.name for one in found.values() if not one.in_maintenance]
        assert (len(serving), found[name].in_maintenance) == (1, True)
        assert (applied.returncode, stage.hapsync("status").returncode) == (0, 0)
        assert [one.name for one in after.values() if not one.in_maintenance] == serving


def test_a_backend_whose_servers_were_all_disabled_before_hapsync_came_is_not_in_step_until_they_are_released() -> (
    None
):
    with Stage({"web": 2}, backend_options=SLOTS, agent=False) as stage, Fleet(stage) as fleet:
        members = [fleet.add(), fleet.add()]
        lines = "".join(
            f"    server srv{number} {one.address} weight 10 check inter 2s disabled  # old\n"
            for number, one in enumerate(members, 1)
        )
        config = stage.haproxy.config.read_text(encoding="utf-8")
        kept = [line for line in config.splitlines(keepends=True) if "    server srv" not in line]
        stage.haproxy.config.write_text("".join(kept) + lines, encoding="utf-8")
        stage.haproxy.reload()
        stage.start_agent()
        wait_until(lambda: "no server that can serve" in stage.hapsync("status").stdout, 15, "status to say it")
        status, plan = stage.status(), stage.hapsync("plan")
        assert (status["sync"]["verdict"], plan.returncode) == ("out_of_sync", 2)
        assert "`hapsync release web/srv1`" in plan.stdout

        for name in ("srv1", "srv2"):
            assert stage.hapsync("release", f"web/{name}").returncode == 0
        stage.wait_equal()
        wait_in_step(stage)


def test_a_server_drained_by_hand_whose_instance_left_is_told_and_its_slot_is_free_once_released() -> None:
    with Stage({"web": 2}, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        drained, _ = fleet.add(), fleet.add()
        stage.wait_equal()
        name = next(one.name for one in stage.haproxy.servers("web").values() if one.port == drained.port)
        stage.haproxy.ask(f"set server web/{name} state drain")
        fleet.remove(drained.name)
        wait_until(lambda: stage.status()["backends"]["web"]["stale_overrides"], 15, "status to show what is left")
        [left] = stage.status()["backends"]["web"]["stale_overrides"]
        said = stage.hapsync("status").stdout
        released = stage.hapsync("release", f"web/{name}")
        wait_until(lambda: not stage.status()["backends"]["web"]["stale_overrides"], 15, "nothing to be left")
        fleet.add()
        stage.wait_equal()

        assert (left["server"], left["address"], left["state"]) == (name, drained.address, "drain")
        assert left["unchanged_seconds"] >= 0
        assert f"{name} {drained.address} is in drain by an operator, unchanged for" in said
        assert f"`hapsync release web/{name}` frees its slot" in said
        assert (released.returncode, stage.reloads()) == (0, 0)
