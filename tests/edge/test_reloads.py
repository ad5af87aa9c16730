"""What the agent remembers of reloads that were not made, without a HAProxy."""

from typing import cast

from hapsync.agent.live_backends import WholeBackends
from hapsync.agent.rollout import Reloads
from hapsync.agent.settings import Settings
from hapsync.errors import ReloadError, WouldLose
from hapsync.model.changes import Shortage
from hapsync.model.server import HAProxyProcess
from hapsync.plan.desired import Desired
from hapsync.plan.growth import needed

SETTINGS = cast("Settings", object())
ATTEMPT = (Desired({}), SETTINGS)
STATIC = {"web": frozenset({"old1", "old2"})}
WOULD_LOSE = WouldLose("they serve", STATIC)
MADE = HAProxyProcess(pid=1, version="2.6.12", uptime_seconds=1, is_stopping=False)


def reloads() -> Reloads:
    return Reloads(lambda: None, cast("WholeBackends", object()))


def grow(one: Reloads) -> None:
    one.need = needed(None, (Shortage("web", (), 1),), 0.0)


def test_who_would_be_lost_is_remembered_as_long_as_the_settings_that_lose_them_are_not_taken() -> None:
    one = reloads()
    one.previous, one.new_settings_at = SETTINGS, 1.0
    assert one.failed(WOULD_LOSE, ATTEMPT) == (False, SETTINGS)
    one.new_settings_at = None

    for what in (None, ReloadError("the disk is full")):
        grow(one)
        if what is None:
            one.made(MADE)
        else:
            one.failed(what, ATTEMPT)
        assert one.not_taken == "they serve"
        assert one.losing == STATIC

    one.read_again()
    assert one.losing == {}


def test_who_would_be_lost_by_a_reload_is_nobody_once_nothing_asks_for_it() -> None:
    one = reloads()
    grow(one)
    one.failed(WOULD_LOSE, ATTEMPT)
    assert one.losing == STATIC
    one.forget_need()
    assert one.losing == {}
