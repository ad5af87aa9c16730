"""The reads of one watch: at its pace, within the budget, on one kept-alive connection."""

import hashlib
import logging
import math
import random
import threading
import time
from collections.abc import Mapping

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.connection_limit import ConnectionLimit
from hapsync.consul.endpoint import Endpoints
from hapsync.consul.evidence import Finding, age_seconds, evidence, is_streamed
from hapsync.consul.health import parse_reading
from hapsync.consul.rate_limit import CACHED, UNCACHED, Budget, Burst, Pace
from hapsync.consul.wait_limit import SHORTEST_SECONDS, Cuts, Holding, WaitLimit
from hapsync.consul.watch_state import CONFIRM_AGAIN_SECONDS, CONFIRM_SECONDS, Read
from hapsync.errors import CatalogError, CutShort, TooLarge, TooManyConnections
from hapsync.model.catalog import Reading
from hapsync.text import quoted

log = logging.getLogger(__name__)

GUEST_WAIT_SECONDS = 0.01
"""The wait of a guest's query, which does not wait for a change; Consul takes no wait of 0."""
OPEN_SECONDS = 1.0
REFUSED_SECONDS = (0.5, 1.5)
"""The shortest and the longest pause before a refused connection is tried again."""
LARGE_BYTES = 2**20
REST_FACTOR = 4.0
"""After an answer of `LARGE_BYTES` or more, its service rests this many times as long as the parsing took. A service
that changes without a pause then takes at most a fifth of a processor.
"""
LONGEST_REST_SECONDS = 10.0


class Stopped(Exception):
    """The watch has to end; no answer was read."""


class Interrupted(Exception):
    """The read ended because of `interrupt`; the next read is sent as usual."""


class Shared:
    """The state that all readers of one agent share; raises CatalogError when `[consul]` names unfit certificates."""

    def __init__(self, config: ConsulConfig) -> None:
        self.where = Endpoints(config)
        self.budget = Budget()
        self.wait_limit = WaitLimit(config.wait_seconds)
        self.connections = ConnectionLimit(config.max_connections)
        self.max_servers: Mapping[str, int] = {}


class Reader:
    """The reads of one thread; other threads may call `abort`."""

    def __init__(self, service: str, config: ConsulConfig, shared: Shared, stopped: threading.Event) -> None:
        self._service = service
        self._config = config
        self._shared = shared
        self._connections = shared.connections
        self._cuts = Cuts(shared.wait_limit)
        self._rest_until = -math.inf
        """The end of the rest after a large answer, so that one service does not take the time of the others."""
        self._stopped = stopped
        self._pace = Pace()
        self._burst = Burst()
        self._holding = Holding()
        self._agents = threading.Lock()
        self._agent: ConsulClient | None = None
        self._opened_at = -math.inf
        self._is_interrupted = False
        self._is_retry = self._is_too_large = False
        self._parsed: tuple[bytes, Reading] | None = None

    def read(self, read: Read) -> Finding:
        """Read the service once pace and budget allow it.

        The times of `read` can only shorten the configured times. A blocking query cut on the way is no failure if
        Consul then answers a query that does not block.

        Raises CatalogError when there is no whole answer, Interrupted, and Stopped.
        """
        read = attrs.evolve(read, wait_seconds=self._shared.wait_limit.at_most(read.wait_seconds))
        try:
            answer, seconds = self._ask_unless_refused(read)
        except CutShort as cut:
            if cut.held_seconds < SHORTEST_SECONDS or self._stopped.is_set():
                raise
            self.hang_up()
            # The query goes without the index: the agent may have restarted, and an older index would only block.
            read = attrs.evolve(read, index=0)
            answer, seconds = self._ask_unless_refused(read)
            self._cuts.note(cut)
        if read.index:
            self._cuts.answered()
        is_cached, is_in_view = "x-cache" in answer.headers, is_streamed(answer.headers)
        is_unchanged = bool(read.index) and answer.index == read.index and not is_cached and not is_in_view
        return Finding(
            self._parse(answer.body),
            answer.index,
            evidence(answer.headers, is_cached),
            is_cached,
            age_seconds(answer.headers) if is_cached else 0.0,
            is_in_view,
            is_unchanged and self._holding.is_early(seconds, read.wait_seconds),
        )

    def _ask_unless_refused(self, read: Read) -> tuple[Answer, float]:
        """Ask for the service, and retry where the agent takes no more connections."""
        deadline = time.monotonic() + self._config.timeout_seconds
        while True:
            try:
                return self._ask(self._service, read)
            except TooManyConnections as error:
                self.hang_up()
                if (now := time.monotonic()) > deadline:
                    raise
                self._wait(random.uniform(*REFUSED_SECONDS))  # noqa: S311
                if not error.is_said and not self._connections.closed(self._service, now):
                    raise  # an outage cut all connections

    def confirm(self, seen: Reading, *, is_again: bool) -> Finding:
        """Ask the leader about the service of the reading `seen`; return its answer, with any doubt from the headers.

        An empty answer counts only if the canary is seen with the same rights. With `is_again`, any server is asked
        for the canary first: a token without rights should not burden the leader.

        Raises CatalogError when there is no certain answer, Interrupted, and Stopped.
        """
        timeout_seconds = CONFIRM_AGAIN_SECONDS if is_again else CONFIRM_SECONDS
        leader = Read("consistent", timeout_seconds=timeout_seconds)
        if seen.is_empty and is_again:
            self._see_canary(attrs.evolve(leader, consistency="stale"))
        if seen.is_empty:
            self._see_canary(leader)
        found = self.read(leader)
        if found.reading.is_empty and not seen.is_empty:
            self._see_canary(leader)
        return found

    def _see_canary(self, read: Read) -> None:
        canary = self._config.canary
        if canary and not is_alive(reading_of(canary, self._ask(canary, read)[0])):
            raise CatalogError(f"the canary {quoted(canary)} is not seen")

    def _parse(self, body: bytes) -> Reading:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        if self._parsed is None or self._parsed[0] != digest:
            begin = time.monotonic()
            self._parsed = (digest, parse_reading(self._service, body))
            if len(body) >= LARGE_BYTES:
                now = time.monotonic()
                self._rest_until = now + min(LONGEST_REST_SECONDS, (now - begin) * REST_FACTOR)
        return self._parsed[1]

    def _ask(self, service: str, read: Read) -> tuple[Answer, float]:
        """Return the answer, and the seconds it took."""
        # A confirming read must not delay the next change, so it has the pace of the answer that it confirms.
        is_slow = read.consistency in {"stale", "default"} and not read.is_confirming
        delay_seconds = self._pace.delay_seconds(UNCACHED if is_slow else CACHED)
        if read.index:
            delay_seconds = max(delay_seconds, self._burst.delay_seconds())
        keeps = self._connections.may_keep(self._service, self.interrupt, is_empty=self._is_empty)
        if read.index and not keeps:
            self.hang_up()
            delay_seconds = max(delay_seconds, self._connections.rest_seconds())
            read = attrs.evolve(read, wait_seconds=GUEST_WAIT_SECONDS)
        if self._is_too_large or (read.consistency != "consistent" and not read.is_confirming):
            delay_seconds = max(delay_seconds, self._rest_until - time.monotonic())
        self._wait(delay_seconds)
        is_new = False
        try:
            agent = self._current(blocks=read.index > 0)
            is_new = not agent.is_open
            agent.open(read.timeout_seconds)
            self._opened_at = time.monotonic() if is_new else self._opened_at
            self._take_turn(is_last=read.index > 0 and (self._is_empty or not keeps))
            if self._stopped.is_set():  # `stop` may have come before there was an agent to abort
                raise Stopped
            began = time.monotonic()
            answer = agent.read_health(service, read, self._shared.max_servers.get(service))
        except CatalogError as error:
            self._connections.failed(self._service)
            if self._is_interrupted:
                raise Interrupted from None
            self._is_retry = True
            if isinstance(error, TooLarge):
                self._is_too_large = True
                self._rest_until = time.monotonic() + LONGEST_REST_SECONDS
            if isinstance(error, TooManyConnections):
                self._connections.refused(self._service)
            elif is_new and self._is_limit(error):
                raise TooManyConnections(str(error), is_said=False) from error
            raise
        self._connections.answered(self._service, self._opened_at)
        self._is_retry = self._is_too_large = False
        # A guest's query does not wait, so its answer is never early.
        return answer, time.monotonic() - began if keeps else math.inf

    def _current(self, *, blocks: bool) -> ConsulClient:
        """Return the client for the next query; `blocks`: the query is a blocking one.

        Raises CatalogError where no client can be made, and Interrupted instead of a blocking query with an index
        from before the interruption.
        """
        while self._agent is None and not self._connections.may_open(self._service, OPEN_SECONDS):
            self._wait(0.0)
        if self._is_retry and self._agent is None:  # a refused connection costs the agent as much as a read
            self._take_turn()
        with self._agents:
            if self._is_interrupted:  # an aborted client sends no more requests
                self._is_interrupted = False
                self._close()
                if blocks:
                    raise Interrupted
            if self._agent is None:
                self._agent = ConsulClient(self._config, self._shared.where.current())
            return self._agent

    @property
    def is_open(self) -> bool:
        """The connection of the last answer is still open, so the index of that answer is still valid."""
        return self._agent is not None and self._agent.is_open

    def renew(self) -> None:
        """Close the connection if the token or a certificate in the files has changed; raises CatalogError."""
        if self._agent is not None and not self._agent.is_for(self._shared.where.current()):
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection; token and certificates are read again for the next one."""
        self._close()
        self._connections.hung_up(self._service)

    def rest(self, seconds: float) -> None:
        """Read nothing for `seconds`, and keep the connection only within the connection limit; raises Stopped."""
        if not self._connections.keeps(self._service):
            self.hang_up()
        self._wait(seconds)

    def leave(self) -> None:
        """Give back everything shared with other readers; no further read follows."""
        self.hang_up()
        self._shared.budget.leave(self._service)
        self._connections.leave(self._service)

    def _close(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def interrupt(self) -> None:
        """End a running read at once, or begin the next one on a new connection; other threads call this."""
        with self._agents:
            self._is_interrupted = True
            self.abort()

    def abort(self) -> None:
        """End the running read at once; other threads call this, after they have set `stopped`."""
        agent = self._agent
        if agent is not None:
            agent.abort()

    def _is_limit(self, error: CatalogError) -> bool:
        """Return whether the agent's limit may have closed a new connection (Consul 1.8 sends no answer then)."""
        if isinstance(error, CutShort) and error.held_seconds >= SHORTEST_SECONDS:
            return False
        return isinstance(error.__cause__, (ConnectionResetError, BrokenPipeError)) and self._connections.has_many()

    def _take_turn(self, *, is_last: bool = False) -> None:
        while delay := self._shared.budget.take_or_delay_seconds(self._service, is_last=is_last):
            self._wait(delay)

    @property
    def _is_empty(self) -> bool:
        """The service was read, and Consul has no entry of it."""
        return self._parsed is not None and self._parsed[1].is_empty

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped


def reading_of(service: str, answer: Answer) -> Reading:
    """Return the reading of `service` in `answer`, with the doubt of the headers; raises CatalogError without one."""
    doubt = evidence(answer.headers, "x-cache" in answer.headers)
    return attrs.evolve(parse_reading(service, answer.body), doubt=doubt)


def is_alive(canary: Reading) -> bool:
    """Return whether the reading of the canary shows, without a doubt, that the token may see instances."""
    return canary.doubt is None and bool(not canary.is_empty or canary.namesakes)
