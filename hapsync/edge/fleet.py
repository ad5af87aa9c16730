"""One of the reload slots of a group of balancers, held by a Consul session while a reload runs.

Slot i of a group is the key `hapsync/GROUP/reload/slot-i`; whoever acquires one may reload. Its session dies with its
holder (`behavior` delete: the key goes, too), so a killed holder frees the slot: Consul invalidates a session between
one and two times its TTL (Consul's manual, sessions; 20.0 s for a TTL of 10 s on 1.8.7). Locks are advice, and a
session may be lost at any time: `is_held` is to be asked right before the reload.

The token needs `key_prefix "hapsync/"` write and `session_prefix ""` write.
"""

import base64
import http
import json
from collections.abc import Callable
from typing import TypeVar

import attrs

from hapsync.edge.consul import Agent
from hapsync.edge.transport import base
from hapsync.errors import CatalogError
from hapsync.text import quoted, shown

TTL_SECONDS = 15
"""Renew more often than this; short enough that a killed holder does not keep the group waiting for long."""
RIGHTS = 'the token needs `key_prefix "hapsync/"` and `session_prefix ""` write'
LOCK_DELAY_SECONDS = 1
"""How long Consul keeps a slot empty after its session was lost or ended."""

Given = TypeVar("Given")


@attrs.frozen
class Held:
    """A slot that we hold: its key and the session that holds it."""

    key: str
    session: str


@attrs.frozen
class Busy:
    """No slot is free; `holders` are the values of their keys, safe to show."""

    holders: tuple[str, ...]


def key_of(group: str, number: int) -> str:
    """Return the key of the slot `number`, counted from 0, of `group`."""
    return f"hapsync/{group}/reload/slot-{number}"


def take_slot(agent: Agent, group: str, at_once: int, value: str) -> Held | Busy:
    """Take one of the `at_once` slots of `group`, with `value` to be shown to those who wait; never waits for one.

    Raises CatalogError when Consul is away or refuses; no slot is held then, or none beyond its TTL.
    """
    session = _asked(
        lambda: str(
            agent.session.create(
                name="hapsync reload", ttl=TTL_SECONDS, lock_delay=LOCK_DELAY_SECONDS, behavior="delete"
            )
        )
    )
    keys = tuple(key_of(group, number) for number in range(at_once))
    try:
        for key in keys:
            if _asked(lambda key=key: agent.kv.put(key, value, acquire=session)) is True:  # type: ignore[misc]
                return Held(key, session)
        holders = tuple(found[1] for key in keys if (found := _read(agent, key)) is not None)
    except CatalogError:
        _destroy_quietly(agent, session)
        raise
    _destroy_quietly(agent, session)
    return Busy(holders)


def try_slot(agent: Agent, group: str) -> None:
    """Take a slot of a group that is none and give it back; raises CatalogError where Consul would not give one."""
    found = take_slot(agent, f"{group}/check", 1, "hapsync check")
    if isinstance(found, Held):
        release(agent, found)


def renew(agent: Agent, held: Held) -> None:
    """Keep the slot for another `TTL_SECONDS`; raises CatalogError when that could not be done."""
    _asked(lambda: agent.session.renew(held.session))


def is_held(agent: Agent, held: Held) -> bool:
    """Return whether the slot is still ours, by the leader's word; raises CatalogError when Consul does not tell."""
    found = _read(agent, held.key)
    return found is not None and found[0] == held.session


def release(agent: Agent, held: Held) -> None:
    """Give the slot back; where Consul is away, its TTL does so."""
    _destroy_quietly(agent, held.session)


def _read(agent: Agent, key: str) -> tuple[str, str] | None:
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


def _destroy_quietly(agent: Agent, session: str) -> None:
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
        raise CatalogError(f"Consul refuses a reload slot: {shown(str(error))}{hint}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogError("Consul's answer about a reload slot is none") from error
