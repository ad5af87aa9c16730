"""A balancer's turn to reload within its group; asked for and kept beside the passes, never waited for by them.

A reload that is needed is made in any case: where no turn comes within the patience (all slots are held, Consul is
away or refuses), it is made without one.
"""

import logging
import threading
import time
from collections.abc import Callable

from hapsync.config import ConsulConfig
from hapsync.edge.consul import Agent, endpoint, read_token
from hapsync.edge.fleet import TTL_SECONDS, Held, is_held, release, renew, take_slot
from hapsync.errors import CatalogError
from hapsync.text import shown

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Until a slot is asked for again; each try makes a session, which the leader has to write down."""


class Turn(threading.Thread):
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
        patience_seconds: float,
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
        self._patience_seconds = patience_seconds
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
        until = time.monotonic() + self._patience_seconds
        held: Held | None = None
        while held is None and time.monotonic() < until and not self._given_back.is_set():
            held = self._try()
            if held is None:
                self._given_back.wait(max(0.0, min(AGAIN_SECONDS, until - time.monotonic())))
        if held is None and not self._given_back.is_set():
            log.warning("reload without a slot of group %s: %s", self._group, self.waits_for)
        self.is_come.set()
        self._when_come()
        if held is not None:
            self._keep(held)

    def _try(self) -> Held | None:
        try:
            agent = self._agent()
            try:
                found = take_slot(agent, self._group, self._at_once, self._value)
            finally:
                agent.close()
        except CatalogError as error:
            self.waits_for = str(error)
            return None
        if isinstance(found, Held):
            self.waits_for = ""
            return found
        holders = ", ".join(found.holders) or "a holder that has just left"
        self.waits_for = f"a reload slot of group {shown(self._group)} held by {holders}"
        return None

    def _keep(self, held: Held) -> None:
        renewed_at = time.monotonic()
        while not self._given_back.wait(AGAIN_SECONDS):
            try:
                agent = self._agent()
                try:
                    if not is_held(agent, held):
                        self._is_lost.set()
                        return
                    if time.monotonic() - renewed_at > TTL_SECONDS / 3:
                        renew(agent, held)
                        renewed_at = time.monotonic()
                finally:
                    agent.close()
            except CatalogError as error:
                log.debug("reload slot not renewed: %s", error)
        try:
            agent = self._agent()
        except CatalogError:
            return  # the TTL ends it
        release(agent, held)
        agent.close()

    def _agent(self) -> Agent:
        return Agent(self._consul, endpoint(self._consul), read_token(self._consul))
