"""The thread of one blocking query about a list of Consul's catalog, which concerns no single service."""

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from typing import ClassVar

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.query import Query
from hapsync.consul.rate_limit import Pace, Rate
from hapsync.consul.read import Shared
from hapsync.consul.wait_limit import SHORTEST_SECONDS, Cuts
from hapsync.errors import CatalogError, CutShort

log = logging.getLogger(__name__)


class ListWatch(threading.Thread, ABC):
    """Reads one list again and again; a subclass asks for the list, and decides about answers and failures.

    `error` is why the last try failed, None while the watch works.
    """

    RATE: ClassVar[Rate]
    WAIT_SECONDS: ClassVar[float]
    """The longest wait of a query."""
    RETRY_SECONDS: ClassVar[tuple[float, float]]
    """The shortest and the longest pause after a failure."""

    def __init__(self, name: str, config: ConsulConfig, shared: Shared, consistency: str) -> None:
        super().__init__(name=name, daemon=True)
        self.error: str | None = None
        self._config = config
        self._shared = shared
        self._consistency = consistency
        self._stopped = threading.Event()
        self._pace = Pace()
        self._cuts = Cuts(shared.wait_limit)
        self._cut: CutShort | None = None
        self._agent: ConsulClient | None = None
        self._index = 0
        """The index of the next query; 0 for a query that does not block."""

    @abstractmethod
    def _ask(self, agent: ConsulClient, query: Query) -> Answer:
        """Ask for the list; raises CatalogError."""

    @abstractmethod
    def _take(self, answer: Answer, seconds: float, query: Query) -> float:
        """Take the answer to `query`, which came after `seconds`, and set the next index; return the pause.

        Raises CatalogError for an answer that cannot be read.
        """

    @abstractmethod
    def _fail(self, error: str, *, has_answered: bool) -> None:
        """Take a failure; `has_answered`: the connection is open, so the failure is in an answer."""

    def stop(self) -> None:
        """End the watch soon, whatever Consul does."""
        self._stopped.set()
        agent = self._agent
        if agent is not None:
            agent.abort()

    def run(self) -> None:
        """Watch until `stop`."""
        pause_seconds = 0.0
        while not self._stopped.wait(pause_seconds + self._pace.delay_seconds(self.RATE)):
            try:
                pause_seconds = self._turn()
                self.error = None
            except Exception as error:
                has_answered = self._agent is not None and self._agent.is_open
                self._hang_up()
                if self._stopped.is_set():
                    break
                if isinstance(error, CutShort) and error.held_seconds >= SHORTEST_SECONDS:
                    self._cut, pause_seconds = error, 0.0
                    continue
                is_defect = not isinstance(error, CatalogError)
                if is_defect and self.error is None:
                    log.exception("a defect of hapsync, please report it: %s", self.name)
                said = repr(error) if is_defect else str(error)
                self._fail(said, has_answered=has_answered)
                self.error, self._cut = said, None
                pause_seconds = random.uniform(*self.RETRY_SECONDS)  # noqa: S311
        self._hang_up()

    def _turn(self) -> float:
        """Ask once; return the seconds of the next pause."""
        where = self._shared.where.current()
        if self._agent is not None and not self._agent.is_for(where):
            self._hang_up()
        if self._agent is None:
            self._agent = ConsulClient(self._config, where)
        self._agent.open()
        while delay_seconds := self._shared.budget.take_or_delay_seconds():
            if self._stopped.wait(delay_seconds):
                return 0.0
        if self._stopped.is_set():  # `stop` may have come before there was an agent to abort
            return 0.0
        wait_seconds = self._shared.wait_limit.at_most(self.WAIT_SECONDS)
        query = Query(self._consistency, self._index, wait_seconds)
        began = time.monotonic()
        answer = self._ask(self._agent, query)
        seconds = time.monotonic() - began
        if self._cut is not None:
            self._cuts.note(self._cut)
            self._cut = None
        elif self._index:
            self._cuts.answered()
        return self._take(answer, seconds, query)

    def _hang_up(self) -> None:
        # Another agent, or the same one after its restart, may never reach an older index.
        self._index = 0
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()
