"""Read Consul for one watch: at its pace, within the budget, on one kept-alive connection."""

import contextlib
import hashlib
import logging
import math
import re
import threading

import attrs

from hapsync.catalog import Doubt, Reading, parse_reading
from hapsync.config import ConsulConfig
from hapsync.edge.consul import Agent, Answer, Endpoints, read_token
from hapsync.edge.pacing import CACHED, UNCACHED, Budget, Burst, Pace
from hapsync.edge.waits import SHORTEST_SECONDS, Cuts, Waits
from hapsync.errors import CatalogError, CutShort
from hapsync.text import quoted
from hapsync.trust import LIVE_AGE_SECONDS, age_seconds, evidence

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 1.0
CONFIRM_AGAIN_SECONDS = 3.0
"""What may be added waits no longer than this for Consul to confirm what is gone, the first time and later."""


@attrs.frozen
class Finding:
    """One answer: what it says of the service, and what speaks against it.

    `reading` carries no doubt of its own. `age_seconds` is how long the agent's cache was out of touch, 0 without it.
    """

    reading: Reading
    index: int
    doubt: Doubt | None
    is_cached: bool
    age_seconds: float

    @property
    def is_behind(self) -> bool:
        """It comes from a cache that is out of touch with the servers."""
        return self.age_seconds >= LIVE_AGE_SECONDS


class Stopped(Exception):
    """The watch is to end; nothing was read."""


class Reader:
    """Reads of one thread; `abort` may be called from any other."""

    def __init__(
        self,
        service: str,
        config: ConsulConfig,
        where: Endpoints,
        budget: Budget,
        waits: Waits,
        stopped: threading.Event,
    ) -> None:
        self._service = service
        self._config = config
        self._where = where
        self._budget = budget
        self._waits = waits
        self._cuts = Cuts(waits)
        self._stopped = stopped
        self._pace = Pace()
        self._burst = Burst()
        self._agent: Agent | None = None
        self._is_retry = False
        self._parsed: tuple[bytes, Reading] | None = None

    def read(
        self,
        consistency: str,
        *,
        index: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float = math.inf,
    ) -> Finding:
        """Read the service once pace and budget allow it; the arguments are those of `Agent.read_health`.

        `wait_seconds` and `timeout_seconds` can only shorten what is configured. A blocking query that is cut on the
        way is no failure where Consul then answers one that does not block.

        Raises CatalogError when there is no whole answer, and Stopped.
        """
        try:
            answer = self._ask(
                self._service,
                consistency,
                index=index,
                wait_seconds=self._waits.at_most(wait_seconds),
                timeout_seconds=timeout_seconds,
            )
        except CutShort as cut:
            if cut.held_seconds < SHORTEST_SECONDS or self._stopped.is_set():
                raise
            self.hang_up()
            # Without the index: the agent may have restarted, and one from before would only block.
            answer = self._ask(self._service, consistency, timeout_seconds=timeout_seconds)
            self._cuts.note(cut)
        is_cached = "x-cache" in answer.headers
        return Finding(
            self._parse(answer.body),
            index_of(f"service {quoted(self._service)}", answer),
            evidence(answer.headers, is_cached),
            is_cached,
            age_seconds(answer.headers) if is_cached else 0.0,
        )

    def confirm(self, seen: Reading, *, is_again: bool) -> Finding | None:
        """Ask the leader what became of `seen`; return what it says, None when that is not beyond doubt.

        An empty answer counts only where the canary is seen with the same rights. When it is asked again and again
        (`is_again`), any server is asked for the canary first: a token without rights is no matter for the leader.

        Raises Stopped.
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
        return found if found.doubt is None else None

    def _canary_lives(self, consistency: str, timeout_seconds: float) -> bool:
        canary = self._config.canary
        if not canary:
            return True
        return is_alive(canary, self._ask(canary, consistency, timeout_seconds=timeout_seconds))

    def _parse(self, body: bytes) -> Reading:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        if self._parsed is None or self._parsed[0] != digest:
            self._parsed = (digest, parse_reading(self._service, body))
        return self._parsed[1]

    def _ask(
        self,
        service: str,
        consistency: str,
        *,
        index: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float = math.inf,
    ) -> Answer:
        # What confirms a removal must not hold up the next change: it is paced like the answer it confirms.
        is_slow = consistency in {"stale", "default"}
        delay_seconds = self._pace.delay_seconds(UNCACHED if is_slow else CACHED)
        self._wait(max(delay_seconds, self._burst.delay_seconds()) if index else delay_seconds)
        timeout_seconds = min(timeout_seconds, self._config.timeout_seconds)
        try:
            if self._agent is None:
                if self._is_retry:  # connections that are refused cost the agent as much as a read
                    self._take_turn()
                self._agent = Agent(self._config, self._where.current(), read_token(self._config))
            self._agent.open(timeout_seconds)
            self._take_turn()
            if self._stopped.is_set():  # `stop` may have come before there was an agent to abort
                raise Stopped
            answer = self._agent.read_health(
                service,
                consistency=consistency,
                index=index,
                wait_seconds=wait_seconds,
                timeout_seconds=timeout_seconds,
            )
        except CatalogError:
            self._is_retry = True
            raise
        self._is_retry = False
        return answer

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
        agent, self._agent = self._agent, None
        if agent is not None:
            with contextlib.suppress(OSError):
                agent.close()

    def abort(self) -> None:
        """End the read under way at once; called from another thread, after `stopped` was set."""
        agent = self._agent
        if agent is not None:
            agent.abort()

    def _take_turn(self) -> None:
        while delay := self._budget.take_or_delay_seconds():
            self._wait(delay)

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
