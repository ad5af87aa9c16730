"""The watch of Consul's servers, past the agent's cache and streams, which hide events at the servers.

One blocking query serves the whole hapsync agent. Its answers concern no single service: they show when every service
has to be read past cache and stream.
"""

import logging
import random
from typing import Protocol

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.evidence import evidence
from hapsync.consul.list_watch import ListWatch
from hapsync.consul.query import Query
from hapsync.consul.rate_limit import UNCACHED
from hapsync.consul.read import Shared
from hapsync.consul.wait_limit import Holding
from hapsync.errors import CatalogError
from hapsync.model.catalog import Doubt
from hapsync.text import quoted

log = logging.getLogger(__name__)

SERVERS = "consul"
"""The service name under which Consul's servers register themselves."""


class OnTrouble(Protocol):
    """A callback to read every service past cache and stream; `is_rewound`: a snapshot may have been restored."""

    def __call__(self, *, is_rewound: bool) -> None: ...


class ServersWatch(ListWatch):
    """The thread that asks any server for the list of servers, and reports four events.

    - A blocking query ended early with nothing new: a snapshot was restored (measured with 1.8.7 and 1.14.11), or the
      server of the query was stopped in good order (1.14.11). The leader knows which.
    - The index fell: Consul lost state.
    - A server went away during its query, and a server answers again.
    - A server has no leader.
    """

    RATE = UNCACHED
    WAIT_SECONDS = 10.0
    """A server reports a lost leader only with its next answer, so no answer is held longer."""
    RETRY_SECONDS = (1.0, 3.0)

    def __init__(self, config: ConsulConfig, shared: Shared, on_trouble: OnTrouble) -> None:
        super().__init__("watch consul's servers", config, shared, "stale")
        self._on_trouble = on_trouble
        self._holding = Holding()
        self._last_index = 0
        self._is_away = False
        self._doubt: Doubt | None = None

    def _ask(self, agent: ConsulClient, query: Query) -> Answer:
        return agent.read_members(SERVERS, query)

    def _take(self, answer: Answer, seconds: float, query: Query) -> float:
        if not answer.body.lstrip().startswith(b"["):
            raise CatalogError(f"service {quoted(SERVERS)}: Consul's answer is no list; is it Consul?")
        doubt = evidence(answer.headers, is_cached=False)
        doubt = None if doubt is Doubt.FILTERED else doubt  # they prove nothing about other services
        is_unchanged = bool(query.index) and answer.index == query.index
        is_early = is_unchanged and self._holding.is_early(seconds, query.wait_seconds)
        is_lower = answer.index < self._last_index
        is_doubted = doubt is not None and self._doubt is None
        is_back = self._is_away and doubt is None
        if is_early or is_lower or is_doubted or is_back:
            log.debug("consul servers: early %s, index lower %s, %s, back %s", is_early, is_lower, doubt, is_back)
            self._on_trouble(is_rewound=is_early)
        self._is_away, self._doubt = self._is_away and not is_back, doubt
        self._last_index = 0 if is_early else answer.index  # a lower index was reported already
        # A blocking query at a server without a leader would only wait.
        self._index = max(answer.index, 1) if doubt is None and not is_early and not is_lower else 0
        return 0.0 if doubt is None else random.uniform(*self.RETRY_SECONDS)  # noqa: S311

    def _fail(self, error: str, *, has_answered: bool) -> None:
        # A failed connection means that the agent is away, and each watch notices that itself.
        if has_answered and not self._is_away:
            log.debug("consul servers: %s", error)
            self._is_away = True
            self._on_trouble(is_rewound=False)
