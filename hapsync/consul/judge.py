"""Settle what an answer of Consul proves: ask again where one answer is not enough, and see where it went backwards.

Three things are looked for everywhere: too much that is gone, a state older than one that was trusted, and, where the
agent answers out of a stream, whatever streamed answers do not say.
"""

import math
import time
from collections.abc import Callable

import attrs

from hapsync.consul.evidence import is_rewritten, loses, loses_silently, needs_confirming, same_content
from hapsync.consul.read import Finding, Interrupted, Reader
from hapsync.errors import CatalogError
from hapsync.model.catalog import Doubt, Reading
from hapsync.text import quoted

WARY_SECONDS = 60.0
"""For so long after Consul's state went back, or its servers were away, no streamed news is believed on its own.

Agents of 1.14.11 gave the old state out of their streams for 0.7 s after the servers had lost theirs (measured).
"""


@attrs.frozen
class Judged:
    """What is believed of an answer.

    `is_backwards`: Consul's state went back. `is_cache_wrong`: the leader says something else as of the same index or
    an older one. `is_refuted`: a streamed answer was wrong.
    """

    finding: Finding
    is_backwards: bool = False
    is_cache_wrong: bool = False
    is_refuted: bool = False


class Judge:
    """Settles the answers about one service; all methods are its watch's, which reads through `reader`."""

    def __init__(
        self, service: str, reader: Reader, baseline: Reading | None, is_alarmed: Callable[[], bool] = lambda: False
    ) -> None:
        """Take what the first answer is measured by; None where nothing is known.

        `is_alarmed`: something happened to Consul's servers since the watch last took note of it.
        """
        self._service = service
        self._reader = reader
        self._is_alarmed = is_alarmed
        self._trusted = baseline
        self._trusted_index = baseline.index if baseline is not None else 0
        self._wary_until = -math.inf
        self._rewound_until = -math.inf
        self._is_rewind_open = False

    @property
    def trusted_index(self) -> int:
        """Consul's index of the last answer without a doubt, 0 before the first."""
        return self._trusted_index

    @property
    def is_wary(self) -> bool:
        """Consul's state may just have gone back."""
        return time.monotonic() < self._wary_until

    def be_wary(self, *, is_rewound: bool) -> None:
        """From now on believe no streamed news on its own; `is_rewound`: a snapshot may have been restored.

        Then Consul's index goes on and only its content goes back, so what is missing is taken for older state.
        """
        self._wary_until = time.monotonic() + WARY_SECONDS
        if is_rewound:
            self._rewound_until = self._wary_until
            self._is_rewind_open = True

    @property
    def is_rewind_open(self) -> bool:
        """A snapshot may just have been restored and cost something, and the leader was not heard since."""
        has_any = self._trusted is not None and bool(self._trusted.instances)
        return has_any and self._is_rewind_open and time.monotonic() < self._rewound_until

    def hear_leader(self, now: Reading | None, *, is_again: bool) -> Finding | None:
        """Ask the leader where a snapshot may have been restored; return what it says, None where it says nothing.

        The leader restores first. Where it lacks nothing of what was trusted, whatever is missing later left in the
        ordinary way: the query may have ended because a server was stopped. `now` was published last.

        Raises Interrupted and Stopped.
        """
        if now is None or not self.is_rewind_open:
            return None
        if now.doubt is Doubt.FILTERED:  # rights are not the leader's to confirm
            self._is_rewind_open = False
            return None
        found = self._reader.confirm(now, is_again=is_again)
        if found is None or found.doubt not in {None, Doubt.FILTERED}:
            return found
        self._is_rewind_open = False
        if found.doubt is None and found.index >= self._trusted_index and not self._is_older(found):
            self._rewound_until = -math.inf
        return found

    def is_news(self, found: Finding, now: Reading | None) -> bool:
        """Return whether `found`, read past the cache, says anything else than `now`, or speaks against it."""
        if now is None or found.doubt is not None:
            return True
        return found.index < self._trusted_index or not same_content(found.reading, now)

    def judge(
        self, found: Finding, now: Reading | None, *, is_again: bool, is_failing: bool, is_unproven: bool
    ) -> Judged:
        """Return what is believed of `found`, where `now` was published last.

        `is_again`: the answer before left a doubt. `is_failing`: the read before failed. `is_unproven`: no answer so
        far said how far the token reads and whether there is a leader, or one said that something is wrong.

        Raises CatalogError where the servers still fail behind a stream, Interrupted, and Stopped.
        """
        asked = found
        differs = self.is_wary and found.is_streamed and (now is None or not same_content(found.reading, now))
        if found.is_streamed and (is_unproven or loses(self._trusted, found.reading)):
            plain = self._reader.look(is_again=is_again)
            if plain is None and is_failing:
                raise CatalogError(
                    f"service {quoted(self._service)}: the agent answers out of its stream, the servers do not"
                )
            differs = differs or (plain is not None and not same_content(plain.reading, found.reading))
            if plain is None:
                found = attrs.evolve(found, doubt=Doubt.AWAY)
            elif plain.doubt is not None:
                found = attrs.evolve(found, doubt=plain.doubt)
            else:
                found = attrs.evolve(plain, age_seconds=asked.age_seconds, is_cached=asked.is_cached)
        needs = needs_confirming(self._trusted, found.reading, found.doubt) or self._is_older(found)
        is_cache_wrong = False
        if (needs or differs or found.index < self._trusted_index) and not _is_hopeless(found, is_again=is_again):
            confirmed = self._reader.confirm(found.reading, is_again=is_again)
            if confirmed is None:
                if is_failing and asked.is_streamed:
                    raise CatalogError(f"service {quoted(self._service)}: the leader does not confirm it")
                doubt = found.doubt or (Doubt.UNCONFIRMED if needs or differs else Doubt.STALE)
                found = attrs.evolve(found, doubt=doubt)
            elif confirmed.doubt is not None:
                found = attrs.evolve(found, doubt=confirmed.doubt)
            else:
                # The leader may only be newer, which the cache will be in a moment. At the same index it is wrong.
                is_cache_wrong = confirmed.index <= found.index and not same_content(confirmed.reading, found.reading)
                found = attrs.evolve(confirmed, age_seconds=asked.age_seconds, is_cached=asked.is_cached)
        return self._concluded(asked, found, is_cache_wrong=is_cache_wrong)

    def _concluded(self, asked: Finding, found: Finding, *, is_cache_wrong: bool) -> Judged:
        """Trust `found`, all that was learnt after the answer `asked`, unless there is a doubt.

        Raises Interrupted where the servers' watch told of trouble meanwhile, which explains what is missing.
        """
        if self._is_alarmed():
            raise Interrupted
        is_refuted = asked.is_streamed and not same_content(asked.reading, found.reading)
        is_backwards = found.doubt is None and (found.index < self._trusted_index or self._is_older(found))
        if is_backwards:
            self.be_wary(is_rewound=False)
        if found.doubt is None:
            self._trusted, self._trusted_index = found.reading, found.index
        return Judged(found, is_backwards, is_cache_wrong, is_refuted)

    def _is_older(self, found: Finding) -> bool:
        """Return whether the content of `found` went back though its index did not."""
        if is_rewritten(self._trusted, found.reading, self._trusted_index):
            return True
        is_rewound = time.monotonic() < self._rewound_until
        return is_rewound and loses_silently(self._trusted, found.reading, self._trusted_index)


def _is_hopeless(found: Finding, *, is_again: bool) -> bool:
    # Rights are not the leader's to confirm, and a server that still has none cannot ask it.
    return found.doubt is Doubt.FILTERED or (is_again and found.doubt is Doubt.NO_LEADER)
