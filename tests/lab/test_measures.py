"""What is made of the requests that were sent and the changes that were seen."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.consul import Consul
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.origins import Origins
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.lab.account import Account, AccountError
from tests.lab.cell import Delays
from tests.lab.client import Request, Sent
from tests.lab.events import Killed, Outage
from tests.lab.fleet import PORT, Fleet
from tests.lab.watching import Change, Seen, Watch


def account(sent: Sent, away_from: float = 1e9) -> Account:
    return Account.of(sent, lambda name, when: name == "gone:80" and when > away_from)


def test_a_request_is_late_when_it_began_after_its_server_had_left() -> None:
    requests = [
        Request(4.9, 0.2, "answered", "gone:80"),
        Request(5.1, 0.1, "answered", "gone:80"),
        Request(5.1, 0.1, "answered", "there:80"),
        Request(5.1, 0.3, "cut", ""),
    ]
    one = account(Sent(4, requests, 0), away_from=5.0)

    assert one.late == 1
    assert (one.requests, one.kinds["answered"], one.kinds["cut"]) == (4, 3, 1)
    assert (one.failed, one.failures) == (1, {"cut": 1})
    assert (one.p50_ms, one.p99_ms, one.p999_ms) == (100, 200, 200)


def test_an_account_that_misses_a_request_is_no_account() -> None:
    with pytest.raises(AccountError, match="2 requests were begun, and 1 are accounted for"):
        account(Sent(2, [Request(0, 0.1, "answered", "a:1")], 0))


def test_changes_that_never_came_about_are_counted_and_lengthen_no_median() -> None:
    changes = [Change("a", True, 1.0, 1.5), Change("b", True, 1.0), Change("b", False, 2.0, 2.25)]

    assert Delays.of(changes) == Delays((0.5, 0.25), 1)


def test_a_change_is_done_when_haproxy_has_it_or_overtaken_by_the_next_and_one_that_is_so_is_none(work: Path) -> None:
    config = minimal_config(
        work / "admin.sock", free_port(), {"web": ["server a 127.0.0.1:1 disabled", "server b 127.0.0.1:2"]}
    )
    (work / "haproxy.cfg").write_text(config)
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        watch.expect("127.0.0.1:1", is_live=True)
        assert not watch.settle(0.3)
        haproxy.ask("set server web/a state ready")
        assert watch.settle(5)
        watch.expect("127.0.0.1:1", is_live=False)
        watch.expect("127.0.0.1:1", is_live=True)
        assert watch.settle(5)
        watch.stop()

    first, overtaken = watch.changes
    assert first.done is not None
    assert 0.3 < first.done - first.begun < 2
    assert overtaken.done is None


@pytest.mark.parametrize("command", ["state maint", "state drain", "health down"])
def test_a_server_that_is_set_aside_or_critical_does_not_serve(work: Path, command: str) -> None:
    servers = ["server a 127.0.0.1:1 check inter 1h", "server b 127.0.0.1:2"]
    (work / "haproxy.cfg").write_text(minimal_config(work / "admin.sock", free_port(), {"web": servers}))
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, "web") as watch:
        haproxy.ask("set server web/a health up")
        watch.wait_serving(2, 5)
        haproxy.ask(f"set server web/a {command}")
        watch.wait_serving(1, 5)

        assert watch.serving == frozenset({"127.0.0.1:2"})


def test_the_worker_that_serves_is_looked_at_while_an_old_one_goes_on(work: Path) -> None:
    config, port = work / "haproxy.cfg", free_port()
    config.write_text(minimal_config(work / "admin.sock", port, {"web": ["server a 127.0.0.1:1"]}))
    with HAProxy(config, work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        old = haproxy.worker_pid()
        with socket.create_connection(("127.0.0.1", port)):  # which keeps the old worker from ending
            config.write_text(minimal_config(work / "admin.sock", port, {"web": ["server b 127.0.0.1:2"]}))
            watch.expect("127.0.0.1:2", is_live=True)
            haproxy.reload()
            assert watch.settle(5)
            assert Path(f"/proc/{old}").exists()
            assert watch.serving == frozenset({"127.0.0.1:2"})


def test_a_haproxy_that_is_gone_is_seen_to_be_and_with_which_servers_it_came_back(work: Path) -> None:
    servers = {"web": ["server a 127.0.0.1:1", "server b 127.0.0.1:2 disabled"]}
    (work / "haproxy.cfg").write_text(minimal_config(work / "admin.sock", free_port(), servers))
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        haproxy.ask("set server web/b state ready")
        watch.wait_serving(2, 5)
        haproxy.kill()
        wait_until(lambda: watch.serving is None, 5, "it to be gone")
        haproxy.start()
        watch.wait_serving(1, 5)
        watch.stop()
    both, file = frozenset({"127.0.0.1:1", "127.0.0.1:2"}), frozenset({"127.0.0.1:1"})

    assert [seen.serving for seen in watch.history[-3:]] == [both, None, file]
    assert watch.history[-1].when > watch.history[-2].when


@pytest.mark.parametrize(
    ("members", "outage"),
    [
        ("a", Outage(0.75, 0.5, is_right_at_once=True)),
        ("ab", Outage(0.75, 1.5, is_right_at_once=False)),
        ("abc", Outage(0.75, None, is_right_at_once=False)),
    ],
)
def test_an_outage_is_over_with_the_servers_that_came_back_and_not_with_those_there_were(
    members: str, outage: Outage
) -> None:
    seen = [(1.0, None), (2.0, "abc"), (9.5, "ab"), (10.125, "abc"), (10.25, None), (10.5, "a"), (11.5, "ab")]
    history = [Seen(when, None if names is None else frozenset(names)) for when, names in seen]

    assert Outage.of(Killed(10.0, 10.75), history, frozenset(members)) == outage


@pytest.fixture
def fleet(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Fleet, Consul]]:
    """Of two addresses; servers linger for a tenth of a second."""
    hosts = ["127.0.0.8", "127.0.0.9"]
    monkeypatch.setattr("tests.lab.fleet.LINGER_SECONDS", 0.1)
    with (
        Consul(work) as consul,
        Origins(work) as origins,
        Fleet(consul, origins, hosts, 1) as made,
    ):
        yield made, consul


def listens(host: str) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((host, PORT)) == 0


def statuses(consul: Consul) -> list[str]:
    return [check["Status"] for entry in consul.health("web") for check in entry["Checks"]]


def test_an_instance_is_away_from_when_consul_is_told_until_it_is_told_otherwise(
    fleet: tuple[Fleet, Consul],
) -> None:
    instances, consul = fleet
    [host] = instances.add()
    name = f"{host}:{PORT}"
    moments, told = [time.monotonic()], [statuses(consul)]
    for act in (instances.fail, instances.recover, instances.leave):
        act(host)
        moments.append(time.monotonic())
        told.append(statuses(consul))

    assert [instances.is_away(name, moment) for moment in moments] == [False, True, False, True]
    assert instances.is_away(name, moments[-1] + 3600)
    assert told == [["passing"], ["critical"], ["passing"], []]


def test_a_server_that_leaves_answers_for_a_moment_and_one_that_dies_is_gone_before_consul_calls_it_critical(
    fleet: tuple[Fleet, Consul],
) -> None:
    instances, consul = fleet
    leaving, dying = instances.add(2)
    instances.leave(leaving)
    assert listens(leaving)
    wait_until(lambda: not listens(leaving), 5, "it to stop")

    begun = time.monotonic()
    ending = threading.Thread(target=instances.die, args=(dying,))
    ending.start()
    wait_until(lambda: not listens(dying), 5, "it to be gone")
    assert statuses(consul) == ["passing"]
    ending.join()
    assert statuses(consul) == ["critical"]
    assert instances.is_away(f"{dying}:{PORT}", time.monotonic())
    assert not instances.is_away(f"{dying}:{PORT}", begun)
