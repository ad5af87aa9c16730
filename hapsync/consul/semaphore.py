"""The reload semaphore of a group of balancers: a Consul session holds a permit while its balancer reloads.

Permit i of a group is the key `hapsync/GROUP/reload/slot-i`, and the session that acquires the key may reload. A
session ends with its holder and deletes the key (`behavior` delete), so a killed holder frees the permit: Consul
invalidates a session between one and two times its TTL (Consul's manual, sessions; 20.0 s for a TTL of 10 s on
1.8.7). Consul's locks are advisory, and a session may be lost at any time, so `is_held` is asked right before the
reload.

`PermitRequest` acquires a permit beside the passes, which never wait for it. A reload that is needed runs in any
case: after the acquire timeout it goes on without a permit, whether other balancers hold them all or Consul is away.

The token needs `key_prefix "hapsync/"` write and `session_prefix ""` write.
"""

import base64
import contextlib
import http
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

import attrs

from hapsync.config.schema import ConsulConfig, FleetConfig
from hapsync.consul.client import ConsulClient, ConsulException
from hapsync.consul.query import Query
from hapsync.errors import CatalogError
from hapsync.text import quoted, shown

log = logging.getLogger(__name__)

TTL_SECONDS = 15
"""A session is renewed more often than this; the TTL is short, so a killed holder does not delay the group for
long."""
RIGHTS = 'the token needs `key_prefix "hapsync/"` and `session_prefix ""` write'
LOCK_DELAY_SECONDS = 1
"""The time for which Consul refuses a key after its session was lost, or ended while it held the key."""

AGAIN_SECONDS = 1.0
"""The pause before the next try, where Consul was away or refuses a free key."""
LOOK_SECONDS = 2.0
"""The wait of a blocking query for a new holder; a request that was given back ends within it."""
SPREAD = 0.5
"""The largest random extension of the acquire timeout, as a part of it."""
LONGEST = 10
"""The longest wait, in acquire timeouts, however often the holders change."""


@attrs.frozen
class Permit:
    """A permit of this balancer: its key, and the session that holds it."""

    key: str
    session: str


@attrs.frozen
class Busy:
    """No permit is free; `holders` are the values of the keys, safe to show, and `sessions` their sessions.

    Consul may refuse a key without a holder, for a while after its holder was lost.
    """

    holders: tuple[str, ...]
    sessions: frozenset[str] = attrs.field(default=frozenset(), eq=False)


def key_of(group: str, number: int) -> str:
    """Return the key of the permit `number`, counted from 0, of `group`."""
    return f"hapsync/{group}/reload/slot-{number}"


def open_session(agent: ConsulClient) -> str:
    """Return a new session, which ends `TTL_SECONDS` after its last renewal; raises CatalogError."""
    with _refusals():
        return str(
            agent.session.create(
                name="hapsync reload", ttl=TTL_SECONDS, lock_delay=LOCK_DELAY_SECONDS, behavior="delete"
            )
        )


def close_session(agent: ConsulClient, session: str) -> None:
    """End `session` and release its keys; where Consul is away, the TTL does so."""
    with contextlib.suppress(CatalogError), _refusals():
        agent.session.destroy(session)


def try_acquire(agent: ConsulClient, session: str, group: str, at_once: int, value: str) -> Permit | Busy:
    """Acquire one of the `at_once` permits of `group` for `session`; waiting balancers are shown `value`.

    This function never waits for a permit. Raises CatalogError when Consul is away or refuses.
    """
    keys = tuple(key_of(group, number) for number in range(at_once))
    with _refusals():
        for key in keys:
            if agent.kv.put(key, value, acquire=session) is True:
                return Permit(key, session)
    found = [one for key in keys if (one := _read(agent, key))[0]]
    return Busy(tuple(value for _, value in found), frozenset(holder for holder, _ in found))


def acquire_permit(agent: ConsulClient, group: str, at_once: int, value: str) -> Permit | Busy:
    """Acquire a permit as `try_acquire` does, in a new session, which ends where no permit is free.

    Raises CatalogError when Consul is away or refuses; no permit is then held beyond the TTL.
    """
    session = open_session(agent)
    with contextlib.ExitStack() as without_permit:
        without_permit.callback(close_session, agent, session)
        found = try_acquire(agent, session, group, at_once, value)
        if isinstance(found, Permit):
            without_permit.pop_all()
        return found


def wait_for_change(agent: ConsulClient, group: str, index: int, wait_seconds: float) -> int:
    """Wait until a permit of `group` has a new holder after `index`, or for `wait_seconds`; return the next index.

    With an `index` of 0 the call returns at once. Raises CatalogError when Consul is away or refuses.
    """
    query = Query(index=index, wait_seconds=wait_seconds)
    answer = agent.ask(f"/v1/kv/hapsync/{group}/reload/", query, [("keys", "")])
    if answer.code not in {http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND}:
        raise CatalogError(f"Consul: the reload permits of group {quoted(group)}: answered {answer.code}; {RIGHTS}")
    return answer.index if answer.index >= index else 0


def try_permit(agent: ConsulClient, group: str) -> None:
    """Acquire and release a permit of a dummy group, to test the token's rights; raises CatalogError without them."""
    found = acquire_permit(agent, f"{group}/check", 1, "hapsync check")
    if isinstance(found, Permit):
        release(agent, found)


def renew(agent: ConsulClient, session: str) -> None:
    """Renew `session` for another `TTL_SECONDS`; raises CatalogError when the renewal fails."""
    with _refusals():
        agent.session.renew(session)


def is_held(agent: ConsulClient, permit: Permit) -> bool:
    """Return whether this balancer still holds the permit, as the leader says; raises CatalogError without answer."""
    return _read(agent, permit.key)[0] == permit.session


def release(agent: ConsulClient, permit: Permit) -> None:
    """Release the permit; where Consul is away, the TTL does so.

    The key is released before its session ends: Consul refuses a key for `LOCK_DELAY_SECONDS` after the loss of its
    session, and a released key is free at once (Consul's manual, sessions).
    """
    with contextlib.suppress(CatalogError), _refusals():
        agent.kv.put(permit.key, "", release=permit.session)
    close_session(agent, permit.session)


def _read(agent: ConsulClient, key: str) -> tuple[str, str]:
    """Return the session that holds `key` and the key's value, safe to show; both are empty without the key."""
    answer = agent.ask(f"/v1/kv/{key}", Query("consistent"))
    if answer.code == http.HTTPStatus.NOT_FOUND:
        return "", ""
    if answer.code != http.HTTPStatus.OK:
        raise CatalogError(f"Consul: key {quoted(key)}: answered {answer.code}")
    try:
        (entry,) = json.loads(answer.body)
        value = base64.b64decode(entry.get("Value") or "").decode("utf-8", "replace")
        return str(entry.get("Session", "")), shown(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogError(f"Consul: key {quoted(key)}: not an answer of a key") from error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise CatalogError for a refusal, or for an answer that the library cannot read."""
    try:
        yield
    except ConsulException as error:
        hint = f"; {RIGHTS}" if "denied" in str(error).lower() else ""
        raise CatalogError(f"Consul refuses a reload permit: {shown(str(error))}{hint}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogError("Consul's answer about a reload permit cannot be read") from error


class Waiting:
    """The acquire timeout of one request, which begins anew with each new holder, `LONGEST` times at most.

    The timeouts of two balancers differ, or all balancers would reload at once where a permit stays held.
    """

    def __init__(self, seconds: float) -> None:
        """Take the seconds for which the holders may stay the same."""
        now = time.monotonic()
        self._seconds = seconds * random.uniform(1, 1 + SPREAD)  # noqa: S311
        self._last = now + LONGEST * self._seconds
        self._until = now + self._seconds
        self._holders: frozenset[str] = frozenset()

    @property
    def left_seconds(self) -> float:
        return max(0.0, self._until - time.monotonic())

    @property
    def is_over(self) -> bool:
        return self.left_seconds <= 0

    def held_by(self, sessions: frozenset[str]) -> None:
        """Note the sessions that hold the permits; a new session begins the acquire timeout anew."""
        if sessions - self._holders and self._holders:
            self._until = min(self._last, time.monotonic() + self._seconds)
        self._holders = sessions or self._holders


class PermitRequest(threading.Thread):
    """A request for one permit: sets `is_come` and calls `when_come` after the wait; keeps the permit to `give_back`.

    `waits_for` is the reason of the wait in words, safe to show; empty while none is known.
    """

    def __init__(
        self,
        consul: ConsulConfig,
        fleet: FleetConfig,
        *,
        value: str,
        when_come: Callable[[], None],
    ) -> None:
        """Take `[consul]` and `[fleet]`, the text for waiting balancers, and the callback for the agent."""
        super().__init__(name="reload permit", daemon=True)
        self.is_come = threading.Event()
        self.waits_for = ""
        self._consul = consul
        self._fleet = fleet
        self._value = value
        self._when_come = when_come
        self._given_back = threading.Event()
        self._is_lost = threading.Event()

    def give_back(self) -> None:
        """Give the permit or the request back, after the reload or without one; any thread may call this."""
        self._given_back.set()

    @property
    def is_lost(self) -> bool:
        """The permit was lost, so another balancer may be reloading; a loss shows within `AGAIN_SECONDS`."""
        return self._is_lost.is_set()

    def run(self) -> None:
        """Ask until the permit is acquired or the acquire timeout ends; then keep the permit."""
        acquire_timeout = Waiting(self._fleet.acquire_timeout_seconds)
        permit: Permit | None = None
        while permit is None and not acquire_timeout.is_over and not self._given_back.is_set():
            try:
                permit = self._wait(acquire_timeout)
            except CatalogError as error:
                self.waits_for = str(error)
                self._given_back.wait(min(AGAIN_SECONDS, acquire_timeout.left_seconds))
        if permit is None and not self._given_back.is_set():
            log.warning("reload without a permit of group %s: %s", self._fleet.group, self.waits_for)
        self.is_come.set()
        self._when_come()
        if permit is not None:
            self._keep(permit)

    def _wait(self, acquire_timeout: Waiting) -> Permit | None:
        """Ask again whenever a permit is acquired or released, in one session; None after the acquire timeout.

        Raises CatalogError when Consul is away or refuses.
        """
        group, at_once = self._fleet.group, self._fleet.reloads_at_once
        index = 0
        with ConsulClient(self._consul) as agent, contextlib.ExitStack() as without_permit:
            session = open_session(agent)
            without_permit.callback(close_session, agent, session)
            renewed_at = time.monotonic()
            while not acquire_timeout.is_over and not self._given_back.is_set():
                index = wait_for_change(agent, group, index, min(LOOK_SECONDS, acquire_timeout.left_seconds))
                found = try_acquire(agent, session, group, at_once, self._value)
                if isinstance(found, Permit):
                    without_permit.pop_all()
                    self.waits_for = ""
                    return found
                holders = ", ".join(found.holders) or "a holder that has just left"
                self.waits_for = f"a reload permit of group {shown(group)} held by {holders}"
                acquire_timeout.held_by(found.sessions)
                if not found.sessions:  # Consul refuses a lost holder's key for a while
                    self._given_back.wait(min(AGAIN_SECONDS, acquire_timeout.left_seconds))
                if time.monotonic() - renewed_at > TTL_SECONDS / 3:
                    renew(agent, session)
                    renewed_at = time.monotonic()
        return None

    def _keep(self, permit: Permit) -> None:
        renewed_at = time.monotonic()
        while not self._given_back.wait(AGAIN_SECONDS):
            try:
                with ConsulClient(self._consul) as agent:
                    if not is_held(agent, permit):
                        self._is_lost.set()
                        return
                    if time.monotonic() - renewed_at > TTL_SECONDS / 3:
                        renew(agent, permit.session)
                        renewed_at = time.monotonic()
            except CatalogError as error:
                log.debug("reload permit not renewed: %s", error)
        with contextlib.suppress(CatalogError), ConsulClient(self._consul) as agent:  # else the TTL ends the session
            release(agent, permit)
