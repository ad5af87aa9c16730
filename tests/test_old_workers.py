"""Which workers are old, which of their servers are gone, and when what they hold may be ended."""

from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.old_workers import (
    LONG_SECONDS,
    MANY,
    Graces,
    Listed,
    OldWorker,
    OnServer,
    alarms,
    gone_among,
    old_among,
    parse_connections,
    parse_session_count,
    parse_sessions,
    uptime_seconds,
)
from hapsync.model.catalog import Doubt
from hapsync.model.server import Address, AdminState, Backend, CheckStatus, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer

LEFT = Address("10.0.0.1", 80)
HERE = Address("10.0.0.2", 80)
# As HAProxy 2.6.12 answers.
CONNECTIONS = """\
# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur
web/srv1 3/1 10.0.0.1 80 - 5000 2 2 2 0 0 -1 1 0 1
web/srv2 3/2 ::1 8080 - 5000 0 0 0 0 0 -1 0 0 0
web/srv3 3/3 - 0 - 5000 1 0 0 0 0 -1 0 0 0

"""
SESSIONS = """\
0x560074472060: proto=tcpv4 src=127.0.0.1:39954 fe=web be=app srv=srv1 ts=00 epoch=0 age=0s calls=2 rate=0
0x7f1ef402e430: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s calls=1 rate=1
0x7f1ef402e4ff: proto=tcpv4 src=127.0.0.1:39955 fe=web be=app srv=<none> ts=00 epoch=0 age=0s calls=1 rate=1

"""


def on(address: Address, used: int = 1, server: str = "srv1") -> OnServer:
    return OnServer("web", server, address, used)


def catalog(*addresses: Address, doubt: Doubt | None = None) -> Desired:
    servers = tuple(
        DesiredServer(one, AdminState.MAINT, 1, "node", "id", CheckStatus.CRITICAL) for one in sorted(addresses)
    )
    return Desired({"web": DesiredBackend("web", 4, servers, doubt=doubt)})


def live(*servers: Server, foreign: tuple[Server, ...] = ()) -> Mapping[str, Backend]:
    return {"web": Backend("web", servers, foreign)}


def gone(servers: OnServer, wanted: Desired, have: Mapping[str, Backend]) -> list[Address]:
    return [one.address for one in gone_among((servers,), wanted, have)]


FREE = Server("srv1", LEFT, AdminState.MAINT, 0)


def test_old_is_what_has_outlived_more_reloads_than_the_worker_that_answers() -> None:
    listed = (Listed(12, 0, 30), Listed(11, 1, 500), Listed(10, 4, 9000))

    assert old_among(listed, 12) == (OldWorker(10, 500, 9000), OldWorker(11, 30, 500))


def test_a_live_worker_after_failed_reloads_is_not_old() -> None:
    assert old_among((Listed(11, 2, 500),), 11) == ()
    assert old_among((Listed(11, 2, 500), Listed(10, 3, 9000)), 11) == (OldWorker(10, 500, 9000),)


def test_a_worker_that_does_not_answer_yet_makes_the_one_that_does_not_old() -> None:
    assert old_among((Listed(12, 0, 0), Listed(11, 1, 500)), 11) == ()


def test_without_the_live_worker_nothing_is_known() -> None:
    assert old_among((Listed(11, 1, 500), Listed(10, 2, 600)), 12) == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("0d00h00m07s", 7), ("2d03h04m05s", 183845), ("", 0), ("7", 0), ("0d00h00m07sx", 0)]
)
def test_an_uptime_is_read_as_the_master_writes_it(text: str, seconds: int) -> None:
    assert uptime_seconds(text) == seconds


def test_connections_are_read_by_the_names_of_the_columns() -> None:
    assert parse_connections(CONNECTIONS) == (
        on(LEFT, 2),
        on(Address("::1", 8080), 0, "srv2"),
    )


@pytest.mark.parametrize("text", ["", "Permission denied\n", "# bkname/svname addr port used_cur\nweb 1 2 3\n"])
def test_what_is_no_list_of_connections_is_an_error(text: str) -> None:
    with pytest.raises(RuntimeAPIError, match="show servers conn"):
        parse_connections(text)


def test_only_sessions_that_have_a_server_are_read() -> None:
    assert parse_sessions(SESSIONS) == (("0x560074472060", "app", "srv1"),)
    assert parse_sessions("Permission denied\n") == ()


def test_the_number_of_sessions_is_that_of_client_connections() -> None:
    assert parse_session_count("Name: HAProxy\nCurrConns: 12\nStopping: 1\n") == 12
    with pytest.raises(RuntimeAPIError, match="CurrConns"):
        parse_session_count("Permission denied\n")


def test_a_server_that_neither_consul_nor_haproxy_names_any_more_is_gone() -> None:
    assert gone(on(LEFT), catalog(HERE), live(FREE)) == [LEFT]
    assert gone(on(LEFT), catalog(HERE), live(Server("srv1", HERE, AdminState.READY, 1))) == [LEFT]


@pytest.mark.parametrize(
    ("servers", "wanted", "have"),
    [
        (on(LEFT, used=0), catalog(HERE), live(FREE)),
        (on(LEFT), catalog(LEFT), live(FREE)),
        (on(LEFT), catalog(HERE), live(Server("srv3", LEFT, AdminState.READY, 1))),
        (on(LEFT), catalog(HERE), live(Server("srv3", LEFT, AdminState.DRAIN, 0))),
        (on(LEFT), catalog(HERE), live(Server("srv3", LEFT, AdminState.MAINT, 5))),
        (on(LEFT), catalog(HERE), live(FREE, foreign=(Server("own", LEFT, AdminState.READY, 1),))),
        (on(LEFT, server="own"), catalog(HERE), live(FREE)),
        (on(LEFT), catalog(HERE, doubt=Doubt.AWAY), live(FREE)),
        (on(LEFT), Desired({}), live(FREE)),
        (on(LEFT), catalog(HERE), {}),
        (on(LEFT), catalog(HERE), {"web": Backend("web", exists=False)}),
        (on(LEFT), attrs.evolve(catalog(HERE), overrides={"web": {LEFT: AdminState.MAINT}}), live(FREE)),
    ],
    ids=[
        *("nothing on it", "critical", "ready", "drained", "in maint by hand", "foreign now", "foreign then"),
        *("doubt", "not read", "live not read", "no backend", "held"),
    ],
)
def test_a_server_is_not_gone_while(servers: OnServer, wanted: Desired, have: Mapping[str, Backend]) -> None:
    assert gone(servers, wanted, have) == []


def old(*addresses: Address, sessions: int | None = 1) -> OldWorker:
    return OldWorker(7, 60, 600, sessions, tuple(OnServer("web", "srv1", one, 1) for one in addresses))


def test_the_grace_begins_anew_where_a_server_was_back_meanwhile() -> None:
    graces = Graces().seen([old(LEFT)], 0.0).seen([old()], 5.0).seen([old(LEFT)], 10.0)

    assert not graces.is_over(old(LEFT), old(LEFT).gone[0], 19.0, 10.0)
    assert graces.is_over(old(LEFT), old(LEFT).gone[0], 20.0, 10.0)


def test_a_worker_that_did_not_answer_once_keeps_its_grace() -> None:
    graces = Graces().seen([old(LEFT)], 0.0).seen([old(sessions=None)], 5.0).seen([old(LEFT)], 10.0)

    assert graces.is_over(old(LEFT), old(LEFT).gone[0], 10.0, 10.0)


@given(
    looks=st.lists(st.tuples(st.floats(0.1, 20.0), st.booleans()), min_size=1, max_size=20),
    grace_seconds=st.floats(0.0, 60.0),
)
def test_nothing_is_over_that_was_not_gone_for_the_whole_grace(
    looks: list[tuple[float, bool]], grace_seconds: float
) -> None:
    graces, now = Graces(), 0.0
    gone_since: float | None = None
    for wait_seconds, is_gone in looks:
        now += wait_seconds
        worker = old(LEFT) if is_gone else old()
        gone_since = (now if gone_since is None else gone_since) if is_gone else None
        graces = graces.seen([worker], now)
        for one in worker.gone:
            is_due = gone_since is not None and now - gone_since >= grace_seconds > 0
            assert graces.is_over(worker, one, now, grace_seconds) == is_due


def test_many_or_very_old_workers_are_told() -> None:
    young = [OldWorker(pid, 60, LONG_SECONDS * 9) for pid in range(MANY)]
    very_old = OldWorker(99, LONG_SECONDS + 1, LONG_SECONDS + 2)

    assert alarms(young) == ()
    assert [said.startswith("more than 5 old workers") for said in alarms([*young, OldWorker(98, 1, 2)])] == [True]
    assert [said.startswith("old worker 99") for said in alarms([very_old])] == [True]
