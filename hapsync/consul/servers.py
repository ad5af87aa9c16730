"""The watch of Consul's servers, past the agent's cache and streams, which hide events at the servers.

One blocking query serves the whole hapsync agent. Its answers concern no single service: they show when every service
has to be read past cache and stream.
"""

import logging
import random
import threading
import time
from typing import Protocol

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.endpoint import Endpoints
from hapsync.consul.evidence import evidence
from hapsync.consul.rate_limit import UNCACHED, Budget, Pace
from hapsync.consul.read import index_of
from hapsync.consul.wait_limit import Cuts, Holding, WaitLimit
from hapsync.errors import CatalogError, CutShort
from hapsync.model.catalog import Doubt
from hapsync.text import quoted

log = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
"""The wait of a query: a server reports a lost leader only with its next answer, so no answer is held longer."""
RETRY_SECONDS = (1.0, 3.0)
SERVERS = "consul"
"""The service name under which Consul's servers register themselves."""


class OnTrouble(Protocol):
    """A callback to read every service past cache and stream; `is_rewound`: a snapshot may have been restored."""

    def __call__(self, *, is_rewound: bool) -> None: ...


class ServersWatch(threading.Thread):
    """The thread that asks any server for the list of servers, and reports four events.

    - A blocking query ended early with nothing new: a snapshot was restored (measured with 1.8.7 and 1.14.11), or the
      server of the query was stopped in good order (1.14.11). The leader knows which.
    - The index fell: Consul lost state.
    - A server went away during its query, and a server answers again.
    - A server has no leader.
    """

    def __init__(
        self, config: ConsulConfig, where: Endpoints, budget: Budget, wait_limit: WaitLimit, on_trouble: OnTrouble
    ) -> None:
        super().__init__(name="watch consul's servers", daemon=True)
        self._config = config
        self._where = where
        self._budget = budget
        self._on_trouble = on_trouble
        self._wait_limit = wait_limit
        self._cuts = Cuts(wait_limit)
        self._cut: CutShort | None = None
        self._stopped = threading.Event()
        self._pace = Pace()
        self._holding = Holding()
        self._agent: ConsulClient | None = None
        self._index = 0
        self._last_index = 0
        self._is_away = False
        self._doubt: Doubt | None = None

    @property
    def is_waiting(self) -> bool:
        """The query blocks, or the next one will."""
        return self._index > 0

    def stop(self) -> None:
        """End the watch soon, whatever Consul does."""
        self._stopped.set()
        agent = self._agent
        if agent is not None:
            agent.abort()

    def run(self) -> None:
        """Watch until `stop`."""
        pause_seconds = 0.0
        while not self._stopped.wait(pause_seconds + self._pace.delay_seconds(UNCACHED)):
            pause_seconds = 0.0
            try:
                if (delay_seconds := self._budget.take_or_delay_seconds()) > 0:
                    pause_seconds = delay_seconds
                    continue
                pause_seconds = self._turn()
            except CutShort as cut:  # a proxy cut the query, or the agent went away: each watch notices that itself
                self._hang_up()
                self._index, self._cut = 0, cut
            except CatalogError as error:
                pause_seconds = self._failed(error)
            except Exception as error:
                log.exception("a defect of hapsync, please report it: watch of Consul's servers")
                pause_seconds = self._failed(error)
        self._hang_up()

    def _turn(self) -> float:
        where = self._where.current()
        if self._agent is not None and not self._agent.is_for(where):
            self._hang_up()
        if self._agent is None:
            self._agent = ConsulClient(self._config, where)
        self._agent.open()
        if self._stopped.is_set():
            return 0.0
        began = time.monotonic()
        wait_seconds = self._wait_limit.at_most(WAIT_SECONDS)
        answer = self._agent.read_members(SERVERS, index=self._index, wait_seconds=wait_seconds)
        seconds = time.monotonic() - began
        if self._cut is not None:
            self._cuts.note(self._cut)
            self._cut = None
        elif self._index:
            self._cuts.answered()
        index = index_of(f"service {quoted(SERVERS)}", answer)
        if not answer.body.lstrip().startswith(b"["):
            raise CatalogError(f"service {quoted(SERVERS)}: Consul's answer is no list; is it Consul?")
        doubt = evidence(answer.headers, is_cached=False)
        doubt = None if doubt is Doubt.FILTERED else doubt  # they prove nothing about other services
        is_early = bool(self._index) and index == self._index and self._holding.is_early(seconds, wait_seconds)
        is_lower = index < self._last_index
        is_doubted = doubt is not None and self._doubt is None
        is_back = self._is_away and doubt is None
        if is_early or is_lower or is_doubted or is_back:
            log.debug("consul servers: early %s, index lower %s, %s, back %s", is_early, is_lower, doubt, is_back)
            self._on_trouble(is_rewound=is_early)
        self._is_away, self._doubt = self._is_away and not is_back, doubt
        self._last_index = 0 if is_early else index  # a lower index was reported already
        # A blocking query at a server without a leader would only wait.
        self._index = max(index, 1) if doubt is None and not is_early and not is_lower else 0
        return 0.0 if doubt is None else random.uniform(*RETRY_SECONDS)  # noqa: S311

    def _failed(self, error: Exception) -> float:
        # A failed connection means that the agent is away, and each watch notices that itself.
        has_answered = self._agent is not None and self._agent.is_open
        self._hang_up()
        self._index = 0
        if self._stopped.is_set():
            return 0.0
        if has_answered and not self._is_away:
            log.debug("consul servers: %s", error)
            self._is_away = True
            self._on_trouble(is_rewound=False)
        return random.uniform(*RETRY_SECONDS)  # noqa: S311

    def _hang_up(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()
