"""Read Consul for one watch: at its pace, within the budget, on one kept-alive connection."""

import contextlib
import functools
import hashlib
import logging
import math
import random
import re
import threading
import time
from collections.abc import Mapping

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import Answer, ConsulClient
from hapsync.consul.connection_limit import ConnectionLimit
from hapsync.consul.endpoint import Endpoints, read_token
from hapsync.consul.evidence import Finding, age_seconds, evidence, is_streamed
from hapsync.consul.health import parse_reading
from hapsync.consul.rate_limit import CACHED, UNCACHED, Budget, Burst, Pace
from hapsync.consul.wait_limit import SHORTEST_SECONDS, Cuts, Holding, WaitLimit
from hapsync.consul.watch_state import CONFIRM_AGAIN_SECONDS, CONFIRM_SECONDS
from hapsync.errors import CatalogError, CutShort, TooLarge, TooManyConnections
from hapsync.model.catalog import Reading
from hapsync.text import quoted

log = logging.getLogger(__name__)

GUEST_WAIT_SECONDS = 0.01
"""Who keeps no connection does not wait for a change; Consul takes no wait of 0."""
OPEN_SECONDS = 1.0
REFUSED_SECONDS = (0.5, 1.5)
"""Between these a connection that the agent refused is tried again."""
LARGE_BYTES = 2**20
REST_FACTOR = 4.0
"""After an answer of `LARGE_BYTES` or more its service rests so many times as long as it took to read: a fifth of a
processor is what a service may take that never rests.
"""
LONGEST_REST_SECONDS = 10.0


class Stopped(Exception):
    """The watch is to end; nothing was read."""


class Interrupted(Exception):
    """The read was given up because `interrupt` asked for it; the next one goes out as usual."""


class Shared:
    """What all readers of one agent share; made from `[consul]`, raises CatalogError where certificates are unfit."""

    def __init__(self, config: ConsulConfig) -> None:
        self.where = Endpoints(config)
        self.budget = Budget()
        self.wait_limit = WaitLimit(config.wait_seconds)
        self.connections = ConnectionLimit(config.max_connections)
        self.max_servers: Mapping[str, int] = {}


class Reader:
    """Reads of one thread; `abort` may be called from any other."""

    def __init__(self, service: str, config: ConsulConfig, shared: Shared, stopped: threading.Event) -> None:
        self._service = service
        self._config = config
        self._shared = shared
        self._where = shared.where
        self._budget = shared.budget
        self._wait_limit = shared.wait_limit
        self._connections = shared.connections
        self._cuts = Cuts(shared.wait_limit)
        self._rest_until = -math.inf
        """After a large answer, so that no service takes the time of the others."""
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

    def read(
        self,
        consistency: str,
        *,
        index: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float = math.inf,
        is_confirming: bool = False,
    ) -> Finding:
        """Read the service once pace and budget allow it; the arguments are those of `Agent.read_health`.

        `wait_seconds` and `timeout_seconds` can only shorten what is configured. `is_confirming`: it is paced like
        what it confirms. A blocking query that is cut on the way is no failure where Consul then answers one that
        does not block.

        Raises CatalogError when there is no whole answer, Interrupted, and Stopped.
        """
        wait_seconds = self._wait_limit.at_most(wait_seconds)
        ask = functools.partial(self._ask_unless_refused, consistency, timeout_seconds)
        try:
            answer, seconds = ask(index=index, wait_seconds=wait_seconds, is_confirming=is_confirming)
        except CutShort as cut:
            if cut.held_seconds < SHORTEST_SECONDS or self._stopped.is_set():
                raise
            self.hang_up()
            # Without the index: the agent may have restarted, and one from before would only block.
            index = 0
            answer, seconds = ask()
            self._cuts.note(cut)
        if index:
            self._cuts.answered()
        is_cached, is_in_view = "x-cache" in answer.headers, is_streamed(answer.headers)
        found = index_of(f"service {quoted(self._service)}", answer)
        is_unchanged = bool(index) and found == index and not is_cached and not is_in_view
        return Finding(
            self._parse(answer.body),
            found,
            evidence(answer.headers, is_cached),
            is_cached,
            age_seconds(answer.headers) if is_cached else 0.0,
            is_in_view,
            is_unchanged and self._holding.is_early(seconds, wait_seconds),
        )

    def _ask_unless_refused(
        self,
        consistency: str,
        timeout_seconds: float,
        *,
        index: int = 0,
        wait_seconds: float = 0.0,
        is_confirming: bool = False,
    ) -> tuple[Answer, float]:
        """Ask for the service; where the agent takes no more connections, by and by."""
        deadline = time.monotonic() + self._config.timeout_seconds
        while True:
            try:
                return self._ask(
                    self._service,
                    consistency,
                    index=index,
                    wait_seconds=wait_seconds,
                    timeout_seconds=timeout_seconds,
                    is_confirming=is_confirming,
                )
            except TooManyConnections as error:
                self.hang_up()
                if (now := time.monotonic()) > deadline:
                    raise
                self._wait(random.uniform(*REFUSED_SECONDS))  # noqa: S311
                if not error.is_said and not self._connections.closed(self._service, now):
                    raise  # all were cut: an outage

    def confirm(self, seen: Reading, *, is_again: bool) -> Finding | None:
        """Ask the leader what became of `seen`; return what it says, None when it does not say it for certain.

        Where its headers speak against it, that is in the finding. An empty answer counts only where the canary is
        seen with the same rights. When it is asked again and again (`is_again`), any server is asked for the canary
        first: a token without rights is no matter for the leader.

        Raises Interrupted and Stopped.
        """
        timeout_seconds = CONFIRM_AGAIN_SECONDS if is_again else CONFIRM_SECONDS
        was_empty = seen.is_empty
        try:
            if was_empty and is_again and not self._canary_lives("stale", timeout_seconds):
                return None
            if was_empty and not self._canary_lives("consistent", timeout_seconds):
                return None
            found = self.read("consistent", timeout_seconds=timeout_seconds)
            is_empty = found.reading.is_empty
            if is_empty and not was_empty and not self._canary_lives("consistent", timeout_seconds):
                return None
        except CatalogError as error:
            log.debug("consul confirming read: %s", error)
            return None
        return found

    def _canary_lives(self, consistency: str, timeout_seconds: float) -> bool:
        canary = self._config.canary
        if not canary:
            return True
        return is_alive(canary, self._ask(canary, consistency, timeout_seconds=timeout_seconds)[0])

    def _parse(self, body: bytes) -> Reading:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        if self._parsed is None or self._parsed[0] != digest:
            begin = time.monotonic()
            self._parsed = (digest, parse_reading(self._service, body))
            if len(body) >= LARGE_BYTES:
                now = time.monotonic()
                self._rest_until = now + min(LONGEST_REST_SECONDS, (now - begin) * REST_FACTOR)
        return self._parsed[1]

    def _ask(
        self,
        service: str,
        consistency: str,
        *,
        index: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float = math.inf,
        is_confirming: bool = False,
    ) -> tuple[Answer, float]:
        """Return the answer, and how many seconds it took."""
        # What confirms a removal must not hold up the next change: it is paced like the answer it confirms.
        is_slow = consistency in {"stale", "default"} and not is_confirming
        delay_seconds = self._pace.delay_seconds(UNCACHED if is_slow else CACHED)
        if index:
            delay_seconds = max(delay_seconds, self._burst.delay_seconds())
        keeps = self._connections.may_keep(self._service, self.interrupt, is_empty=self._is_empty)
        if index and not keeps:
            self.hang_up()
            delay_seconds = max(delay_seconds, self._connections.rest_seconds())
            wait_seconds = GUEST_WAIT_SECONDS
        if self._is_too_large or (consistency != "consistent" and not is_confirming):
            delay_seconds = max(delay_seconds, self._rest_until - time.monotonic())
        self._wait(delay_seconds)
        timeout_seconds = min(timeout_seconds, self._config.timeout_seconds)
        is_new = False
        try:
            agent = self._current(blocks=index > 0)
            is_new = not agent.is_open
            agent.open(timeout_seconds)
            self._opened_at = time.monotonic() if is_new else self._opened_at
            self._take_turn(is_last=index > 0 and (self._is_empty or not keeps))
            if self._stopped.is_set():  # `stop` may have come before there was an agent to abort
                raise Stopped
            began = time.monotonic()
            answer = agent.read_health(
                service,
                consistency=consistency,
                index=index,
                wait_seconds=wait_seconds,
                timeout_seconds=timeout_seconds,
                max_servers=self._shared.max_servers.get(service),
            )
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
        # Who did not wait was not answered early.
        return answer, time.monotonic() - began if keeps else math.inf

    def _current(self, *, blocks: bool) -> ConsulClient:
        """Return the client to ask next; `blocks`: what is asked may be held back.

        Raises CatalogError where none can be made, and Interrupted rather than let a query block on what was known
        before the interruption.
        """
        while self._agent is None and not self._connections.may_open(self._service, OPEN_SECONDS):
            self._wait(0.0)
        if self._is_retry and self._agent is None:  # connections that are refused cost the agent as much as a read
            self._take_turn()
        with self._agents:
            if self._is_interrupted:  # that client asks nothing any more
                self._is_interrupted = False
                self._close()
                if blocks:
                    raise Interrupted
            if self._agent is None:
                self._agent = ConsulClient(self._config, self._where.current(), read_token(self._config))
            return self._agent

    @property
    def is_open(self) -> bool:
        """The connection is the one of the last answer, so its index still means something."""
        return self._agent is not None and self._agent.is_open

    def renew(self) -> None:
        """Hang up if the token or a certificate is not the one in the files any more; raises CatalogError."""
        if self._agent is not None and not self._agent.is_current(self._where.current(), read_token(self._config)):
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection; token and certificates are read again for the next one."""
        self._close()
        self._connections.hung_up(self._service)

    def rest(self, seconds: float) -> None:
        """Read nothing for so long, and keep the connection only if it is ours to keep; raises Stopped."""
        if not self._connections.keeps(self._service):
            self.hang_up()
        self._wait(seconds)

    def leave(self) -> None:
        """Give up everything that is shared with other readers; nothing is read any more."""
        self.hang_up()
        self._budget.leave(self._service)
        self._connections.leave(self._service)

    def _close(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            with contextlib.suppress(OSError):
                agent.close()

    def interrupt(self) -> None:
        """Have the read under way end at once, if any, or the next one begin anew; called from another thread."""
        with self._agents:
            self._is_interrupted = True
            self.abort()

    def abort(self) -> None:
        """End the read under way at once; called from another thread, after `stopped` was set."""
        agent = self._agent
        if agent is not None:
            agent.abort()

    def _is_limit(self, error: CatalogError) -> bool:
        """Return whether the agent may have closed a new connection for having too many (Consul 1.8 says nothing)."""
        if isinstance(error, CutShort) and error.held_seconds >= SHORTEST_SECONDS:
            return False
        return isinstance(error.__cause__, (ConnectionResetError, BrokenPipeError)) and self._connections.has_many()

    def _take_turn(self, *, is_last: bool = False) -> None:
        while delay := self._budget.take_or_delay_seconds(self._service, is_last=is_last):
            self._wait(delay)

    @property
    def _is_empty(self) -> bool:
        """It was read, and Consul has nothing of it."""
        return self._parsed is not None and self._parsed[1].is_empty

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped


def index_of(what: str, answer: Answer) -> int:
    """Return Consul's index of an `answer` about `what`; raises CatalogError when it has none, as another's has."""
    text = answer.headers.get("x-consul-index", "")
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise CatalogError(f"{what}: Consul's answer has no index; is it Consul?")
    return int(text)


def is_alive(canary: str, answer: Answer) -> bool:
    """Return whether `answer` shows the service that is never empty; raises CatalogError when it is not whole."""
    reading = parse_reading(canary, answer.body)
    is_seen = bool(not reading.is_empty or reading.namesakes)
    return is_seen and evidence(answer.headers, "x-cache" in answer.headers) is None
