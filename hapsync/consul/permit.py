"""A balancer's turn to reload within its group; asked for and kept beside the passes, never waited for by them.

A reload that is needed is made in any case: where no turn comes within the patience (slots stay held, Consul is
away or refuses), it is made without one.
"""

import logging
import random
import threading
import time
from collections.abc import Callable

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient, endpoint, read_token
from hapsync.consul.semaphore import (
    TTL_SECONDS,
    Permit,
    close_session,
    is_held,
    open_session,
    release,
    renew,
    try_acquire,
    wait_for_change,
)
from hapsync.errors import CatalogError
from hapsync.text import shown

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Until Consul is asked again that was away, or that keeps a slot empty."""
LOOK_SECONDS = 2.0
"""How long a query waits for a slot to change hands: who waits wakes at once, and ends this soon when told to."""
SPREAD = 0.5
"""How much of itself is added to everybody's patience at most, at random."""
LONGEST = 10
"""So many times patience is the longest wait, however others' turns move on."""


class Waiting:
    """How long a turn is waited for: a while after slots last changed hands, and not for ever.

    Everybody's ends at another moment, or all who wait would reload at once where a slot stays held.
    """

    def __init__(self, seconds: float) -> None:
        """Take how long nothing may move on."""
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
        """Note who holds the slots: where that is another than before, turns move on, and patience begins anew."""
        if sessions - self._holders and self._holders:
            self._until = min(self._last, time.monotonic() + self._seconds)
        self._holders = sessions or self._holders


class PermitRequest(threading.Thread):
    """One turn: ends waiting by setting `is_come` and calling `when_come`, then keeps the slot until `give_back`.

    `waits_for` says in words why it has not come, safe to show; empty while nothing is known.
    """

    def __init__(
        self,
        consul: ConsulConfig,
        group: str,
        at_once: int,
        *,
        value: str,
        acquire_timeout_seconds: float,
        when_come: Callable[[], None],
    ) -> None:
        """Take the group, how many of it may reload at once, what to show to those who wait, and whom to wake."""
        super().__init__(name="turn", daemon=True)
        self.is_come = threading.Event()
        self.waits_for = ""
        self._consul = consul
        self._group = group
        self._at_once = at_once
        self._value = value
        self._acquire_timeout_seconds = acquire_timeout_seconds
        self._when_come = when_come
        self._given_back = threading.Event()
        self._is_lost = threading.Event()

    def give_back(self) -> None:
        """The reload was made, or is not made any more; to be called from any thread, at any time."""
        self._given_back.set()

    @property
    def is_lost(self) -> bool:
        """The slot was ours and is no more: another may be reloading. Known within `AGAIN_SECONDS`."""
        return self._is_lost.is_set()

    def run(self) -> None:
        """Ask until a slot is ours or patience ends; then keep it."""
        acquire_timeout = Waiting(self._acquire_timeout_seconds)
        permit: Permit | None = None
        while permit is None and not acquire_timeout.is_over and not self._given_back.is_set():
            try:
                permit = self._wait(acquire_timeout)
            except CatalogError as error:
                self.waits_for = str(error)
                self._given_back.wait(min(AGAIN_SECONDS, acquire_timeout.left_seconds))
        if permit is None and not self._given_back.is_set():
            log.warning("reload without a permit of group %s: %s", self._group, self.waits_for)
        self.is_come.set()
        self._when_come()
        if permit is not None:
            self._keep(permit)

    def _wait(self, acquire_timeout: "Waiting") -> Permit | None:
        """Ask whenever a slot is taken or given back, in one session; None where patience ended.

        Raises CatalogError when Consul is away or refuses.
        """
        agent = self._agent()
        session = ""
        permit: Permit | None = None
        index = 0
        try:
            session = open_session(agent)
            renewed_at = time.monotonic()
            while not acquire_timeout.is_over and not self._given_back.is_set():
                index = wait_for_change(agent, self._group, index, min(LOOK_SECONDS, acquire_timeout.left_seconds))
                found = try_acquire(agent, session, self._group, self._at_once, self._value)
                if isinstance(found, Permit):
                    self.waits_for, permit = "", found
                    return permit
                holders = ", ".join(found.holders) or "a holder that has just left"
                self.waits_for = f"a reload permit of group {shown(self._group)} held by {holders}"
                acquire_timeout.held_by(found.sessions)
                if not found.sessions:  # empty for a while after its holder was lost; nothing tells when that ends
                    self._given_back.wait(min(AGAIN_SECONDS, acquire_timeout.left_seconds))
                if time.monotonic() - renewed_at > TTL_SECONDS / 3:
                    renew(agent, Permit("", session))
                    renewed_at = time.monotonic()
            return None
        finally:
            if permit is None and session:
                close_session(agent, session)
            agent.close()

    def _keep(self, permit: Permit) -> None:
        renewed_at = time.monotonic()
        while not self._given_back.wait(AGAIN_SECONDS):
            try:
                agent = self._agent()
                try:
                    if not is_held(agent, permit):
                        self._is_lost.set()
                        return
                    if time.monotonic() - renewed_at > TTL_SECONDS / 3:
                        renew(agent, permit)
                        renewed_at = time.monotonic()
                finally:
                    agent.close()
            except CatalogError as error:
                log.debug("reload permit not renewed: %s", error)
        try:
            agent = self._agent()
        except CatalogError:
            return  # the TTL ends it
        release(agent, permit)
        agent.close()

    def _agent(self) -> ConsulClient:
        return ConsulClient(self._consul, endpoint(self._consul), read_token(self._consul))
