"""The interface of a consumer of the catalog: three verbs, and when the agent calls them.

The agent knows nothing else of a consumer. HAProxy's backends are one consumer (`Reconciler`). A *part* is the unit
of a consumer that is brought in sync by itself: here a backend.
"""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import attrs


@attrs.frozen
class Left:
    """The changes that `apply` left undone in `parts`.

    Parts in `again` are to be tried again. The next try comes at once where `has_done` is set, for one change may
    lead to another, else after a pause. Undone changes in parts in `waiting` end with time.
    """

    parts: frozenset[str]
    again: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    has_done: bool = False


Seen_co = TypeVar("Seen_co", covariant=True)
Done = TypeVar("Done")


class Consumer(Protocol[Seen_co, Done]):
    """Brings something outside in sync with the catalog. A consumer keeps no memory of the outside: it reads it."""

    def parts(self, services: Collection[str] | None = None) -> Collection[str]:
        """Return the parts that follow one of `services`, or all parts."""

    def assess(self, parts: Collection[str] | None = None) -> Seen_co:
        """Read `parts`, or all, and return the changes that the catalog asks of them.

        Idempotence: nothing is changed, outside or in the consumer, so any caller may use it, the commands too.
        Retry: none, an answer is about its moment. Raises HapsyncError where the outside does not answer.
        """

    def apply(
        self, parts: Collection[str], *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None
    ) -> Done | None:
        """Assess `parts`, make the changes, and read again; None where the catalog asks nothing of any of them.

        `is_full`: also read values that decide nothing now. `before_acting` is called before the first change; an
        error it raises ends the call.

        Idempotence: the changes follow from the call's own reading, so a second call does nothing. After a kill or an
        error in the middle the next call ends the begun changes. Retry: none here; refused changes, and changes that
        do not show yet, are left to `verify`. Raises HapsyncError where the outside does not answer: all parts are
        due once it does.
        """

    def verify(self, done: Done) -> Left:
        """Return the changes that `done` left undone, by its last reading: the same assessment should be empty.

        Idempotence: the call neither reads nor changes anything. Retry: the agent applies `again` after ever longer
        pauses.
        """
