"""One of the reload slots of a group of balancers, held by a Consul session while a reload runs.

Slot i of a group is the key `hapsync/GROUP/reload/slot-i`; whoever acquires one may reload. Its session dies with its
holder (`behavior` delete: the key goes, too), so a killed holder frees the slot: Consul invalidates a session between
one and two times its TTL (Consul's manual, sessions; 20.0 s for a TTL of 10 s on 1.8.7). Locks are advice, and a
session may be lost at any time: `is_held` is to be asked right before the reload.

The token needs `key_prefix "hapsync/"` write and `session_prefix ""` write.
"""

import base64
import contextlib
import http
import json
from collections.abc import Callable
from typing import TypeVar

import attrs

from hapsync.consul.client import ConsulClient
from hapsync.consul.transport import base
from hapsync.errors import CatalogError
from hapsync.text import quoted, shown

TTL_SECONDS = 15
"""Renew more often than this; short enough that a killed holder does not keep the group waiting for long."""
RIGHTS = 'the token needs `key_prefix "hapsync/"` and `session_prefix ""` write'
LOCK_DELAY_SECONDS = 1
"""How long Consul keeps a slot empty after its session was lost, or ended while it held the slot."""

_INDEX_DIGITS = 20

Given = TypeVar("Given")


@attrs.frozen
class Permit:
    """A slot that we hold: its key and the session that holds it."""

    key: str
    session: str


@attrs.frozen
class Busy:
    """No slot is free; `holders` are the values of their keys, safe to show, and `sessions` who holds them.

    A slot may be held by nobody and still not be given: Consul keeps it empty for a while after its holder was lost.
    """

    holders: tuple[str, ...]
    sessions: frozenset[str] = attrs.field(default=frozenset(), eq=False)


def key_of(group: str, number: int) -> str:
    """Return the key of the slot `number`, counted from 0, of `group`."""
    return f"hapsync/{group}/reload/slot-{number}"


def open_session(agent: ConsulClient) -> str:
    """Return a new session, which ends `TTL_SECONDS` after it was last renewed; raises CatalogError."""
    return _asked(
        lambda: str(
            agent.session.create(
                name="hapsync reload", ttl=TTL_SECONDS, lock_delay=LOCK_DELAY_SECONDS, behavior="delete"
            )
        )
    )


def close_session(agent: ConsulClient, session: str) -> None:
    """End `session`, and let go what it holds; where Consul is away, its TTL does so."""
    _destroy_quietly(agent, session)


def try_acquire(agent: ConsulClient, session: str, group: str, at_once: int, value: str) -> Permit | Busy:
    """Take one of the `at_once` slots of `group` for `session`, with `value` to be shown to those who wait.

    Never waits for one. Raises CatalogError when Consul is away or refuses.
    """
    keys = tuple(key_of(group, number) for number in range(at_once))
    for key in keys:
        if _asked(lambda key=key: agent.kv.put(key, value, acquire=session)) is True:  # type: ignore[misc]
            return Permit(key, session)
    found = [one for key in keys if (one := _read(agent, key)) is not None and one[0]]
    return Busy(tuple(value for _, value in found), frozenset(holder for holder, _ in found))


def acquire_permit(agent: ConsulClient, group: str, at_once: int, value: str) -> Permit | Busy:
    """Take a slot as `try_take` does, in a session of its own, which ends where there is none.

    Raises CatalogError when Consul is away or refuses; no slot is held then, or none beyond its TTL.
    """
    session = open_session(agent)
    try:
        found = try_acquire(agent, session, group, at_once, value)
    except CatalogError:
        _destroy_quietly(agent, session)
        raise
    if isinstance(found, Busy):
        _destroy_quietly(agent, session)
    return found


def wait_for_change(agent: ConsulClient, group: str, index: int, wait_seconds: float) -> int:
    """Wait until a slot of `group` changes hands after `index`, or for `wait_seconds`; return the next index.

    With an `index` of 0 it returns at once. Raises CatalogError when Consul is away or refuses.
    """
    params: list[tuple[str, object]] = [("keys", "")]
    if agent.dc:
        params.append(("dc", agent.dc))
    if index > 0:
        params += [("index", index), ("wait", f"{wait_seconds * 1000:.0f}ms")]
    headers = {"X-Consul-Token": agent.token} if agent.token else {}
    answer = agent.http.get(
        lambda response: response,
        f"/v1/kv/hapsync/{group}/reload/",
        params,
        headers,
        wait_seconds=wait_seconds if index > 0 else 0.0,
    )
    if answer.code not in {http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND}:
        raise CatalogError(f"Consul: the reload permits of group {quoted(group)}: answered {answer.code}; {RIGHTS}")
    text = answer.headers.get("x-consul-index", "")
    found = int(text) if text.isdecimal() and len(text) < _INDEX_DIGITS else 0
    return found if found >= index else 0


def try_permit(agent: ConsulClient, group: str) -> None:
    """Take a slot of a group that is none and give it back; raises CatalogError where Consul would not give one."""
    found = acquire_permit(agent, f"{group}/check", 1, "hapsync check")
    if isinstance(found, Permit):
        release(agent, found)


def renew(agent: ConsulClient, permit: Permit) -> None:
    """Keep the slot for another `TTL_SECONDS`; raises CatalogError when that could not be done."""
    _asked(lambda: agent.session.renew(permit.session))


def is_held(agent: ConsulClient, permit: Permit) -> bool:
    """Return whether the slot is still ours, by the leader's word; raises CatalogError when Consul does not tell."""
    found = _read(agent, permit.key)
    return found is not None and found[0] == permit.session


def release(agent: ConsulClient, permit: Permit) -> None:
    """Give the slot back; where Consul is away, its TTL does so.

    It is released before its session ends: a slot that loses its session is kept empty for `LOCK_DELAY_SECONDS`, one
    that is released is free at once (Consul's manual, sessions).
    """
    with contextlib.suppress(CatalogError):
        _asked(lambda: agent.kv.put(permit.key, "", release=permit.session))
    _destroy_quietly(agent, permit.session)


def _read(agent: ConsulClient, key: str) -> tuple[str, str] | None:
    """Return the session that holds `key` (empty: none) and its value, safe to show; None where there is no key."""
    params: list[tuple[str, object]] = [("consistent", "")]
    if agent.dc:
        params.append(("dc", agent.dc))
    headers = {"X-Consul-Token": agent.token} if agent.token else {}
    answer = agent.http.get(lambda response: response, f"/v1/kv/{key}", params, headers)
    if answer.code == http.HTTPStatus.NOT_FOUND:
        return None
    if answer.code != http.HTTPStatus.OK:
        raise CatalogError(f"Consul: key {quoted(key)}: answered {answer.code}")
    try:
        (entry,) = json.loads(answer.body)
        value = base64.b64decode(entry.get("Value") or "").decode("utf-8", "replace")
        return str(entry.get("Session", "")), shown(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogError(f"Consul: key {quoted(key)}: not an answer of a key") from error


def _destroy_quietly(agent: ConsulClient, session: str) -> None:
    try:
        _asked(lambda: agent.session.destroy(session))
    except CatalogError:
        return  # its TTL ends it


def _asked(ask: Callable[[], Given]) -> Given:
    """Return what Consul gives; raises CatalogError where it refuses, too."""
    try:
        return ask()
    except base.ConsulException as error:
        hint = f"; {RIGHTS}" if "denied" in str(error).lower() else ""
        raise CatalogError(f"Consul refuses a reload permit: {shown(str(error))}{hint}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogError("Consul's answer about a reload permit cannot be read") from error
