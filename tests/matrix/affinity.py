"""The stories of clients that are to stay with their server: by a hash, by a cookie, by a stick table."""

import re
import socket
from collections.abc import Mapping
from http.client import HTTPConnection

from tests.demo.fleet import HOST
from tests.demo.stage import NO_GUARD, Stage
from tests.demo.watching import free_slots
from tests.harness.processes import wait_until
from tests.matrix.playing import SETTLED_SECONDS, Story, Told, must, story

KEYS = tuple(f"/key-{number}" for number in range(200))
IN_SLOTS = f'{NO_GUARD}\nscaling = "slots"'
ROUND_ROBIN_ODDS = 2
"""How far from its share a server may be: a round begins anywhere, and the load has a turn of its own in it."""


def _asked(stage: Stage, path: str, cookie: str = "") -> tuple[str, str]:
    """The origin that answers, and the cookie to ask with next."""
    connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=5)
    try:
        connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        body = answer.read().decode()
        must(answer.status == 200, f"{path} was answered with {answer.status}")
        given = re.match(r"[^;]+", answer.headers.get("Set-Cookie", ""))
        return body.strip(), given[0] if given else cookie
    finally:
        connection.close()


def _origins_of_keys(stage: Stage) -> Mapping[str, str]:
    return {key: _asked(stage, key)[0] for key in KEYS}


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def _wait_free_slots(it: Story, count: int) -> None:
    """Wait until so many slots have nobody on them any more, so that the next instance need not go elsewhere."""
    taken = {member.address for member in it.fleet.members.values()}
    wait_until(
        lambda: free_slots(it.stage.haproxy, "web", taken) == count, SETTLED_SECONDS, f"{count} slots to be free"
    )


def keys_stay_with_a_consistent_hash(version: str) -> Told:
    lines = "    balance uri\n    hash-type consistent\n"
    with story(version, slots=10, instances=6, options=NO_GUARD, template=lines) as it:
        before = _origins_of_keys(it.stage)
        gone = next(iter(it.fleet.members.values()))
        it.fleet.remove(gone.name)
        it.settle()
        without = _origins_of_keys(it.stage)
        moved = [key for key in KEYS if before[key] != without[key]]
        must(all(before[key] == gone.address for key in moved), "keys of servers that stayed have moved")
        must(bool(moved), "no key was on the server that left")
        _wait_free_slots(it, 5)
        wait_until(lambda: not _listens(gone.port), SETTLED_SECONDS, "its server to end")
        it.stage.origins.open(HOST, gone.port)
        it.fleet.put(gone)
        it.settle()
        again = _origins_of_keys(it.stage)
        back = sum(before[key] == again[key] for key in KEYS)
        must(back == len(KEYS), f"only {back} of {len(KEYS)} keys are back where they were")
        return it.end(0, f"{len(moved)} of {len(KEYS)} keys moved, all came back")


def clients_stay_with_a_cookie(version: str) -> Told:
    """As many slots as instances, so that the one that comes gets the slot of the one that left."""
    lines = "    balance roundrobin\n    cookie SRV insert indirect nocache dynamic\n    dynamic-cookie-key secret\n"
    with story(version, slots=4, instances=4, options=IN_SLOTS, template=lines) as it:
        clients = [_asked(it.stage, "/") for _ in range(40)]
        must(len({origin for origin, _ in clients}) == 4, "not every server has clients")
        gone = next(iter(it.fleet.members.values()))
        slot = it.server_of(gone)
        stayed = {member.address for member in it.fleet.members.values()} - {gone.address}
        old = [cookie for origin, cookie in clients if origin == gone.address]
        others = [client for client in clients if client[0] != gone.address]

        it.fleet.remove(gone.name)
        it.settle()
        between = {_asked(it.stage, "/", cookie)[0] for cookie in old}
        must(between <= stayed, f"old cookies lead to {between - stayed}, which left")
        _wait_free_slots(it, 1)
        member = it.fleet.add()
        it.settle()

        must(
            it.server_of(member) == slot, f"the newcomer is in {it.server_of(member)}, not in the slot that was left"
        )
        kept = sum(_asked(it.stage, "/", cookie)[0] == origin for origin, cookie in others)
        must(kept == len(others), f"only {kept} of {len(others)} clients of servers that stayed are where they were")
        moved = [_asked(it.stage, "/", cookie) for cookie in old]
        live = stayed | {member.address}
        must(all(origin in live for origin, _ in moved), "a client with the old cookie is at no live server")
        must(not {cookie for _, cookie in moved} & set(old), "a client with the old cookie was given no other")
        must(
            all(_asked(it.stage, "/", cookie) == (origin, cookie) for origin, cookie in moved),
            "a client that had to move does not stay where it came to",
        )
        inherited = sum(origin == member.address for origin, _ in moved)
        must(inherited < len(old), f"all {inherited} clients of the slot's last instance came to the next one")
        return it.end(
            0, f"{kept} of {len(clients)} clients stay; {len(old)} moved, {inherited} to the slot's next instance"
        )


def stick_entries_end_with_their_server(version: str) -> Told:
    lines = "    balance roundrobin\n    stick-table type string len 32 size 1k expire 1h\n    stick on path\n"
    with story(version, slots=3, instances=3, options=IN_SLOTS, template=lines) as it:
        before = _origins_of_keys(it.stage)
        gone = next(iter(it.fleet.members.values()))
        slot = it.server_of(gone)
        it.fleet.remove(gone.name)
        it.settle()
        _wait_free_slots(it, 1)
        clients = [key for key in KEYS if before[key] == gone.address]
        member = it.fleet.add()
        it.settle()
        must(
            it.server_of(member) == slot, f"the newcomer is in {it.server_of(member)}, not in the slot that was left"
        )
        after = _origins_of_keys(it.stage)
        kept = all(before[key] == after[key] for key in KEYS if key not in clients)
        must(kept, "clients of servers that stayed were moved")
        # Without an entry a client is one more in the round of three servers of one weight.
        share = len(clients) / 3
        inherited = sum(after[key] == member.address for key in clients)
        must(
            abs(inherited - share) <= ROUND_ROBIN_ODDS,
            f"{inherited} of {len(clients)} clients of the slot's last instance came to the next, not {share:.0f}",
        )
        return it.end(
            0, f"{inherited} of {len(clients)} clients came to the slot's next instance; a third is {share:.0f}"
        )
