"""What follows the catalog, by three verbs, and when the agent calls them; of a consumer it knows nothing else.

HAProxy's backends are one consumer (`Reconciler`). What is brought in sync by itself is a part of it: a backend.
"""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import attrs


@attrs.frozen
class Left:
    """What `apply` left undone in `parts`.

    Parts in `again` are to be tried again: at once where `has_done` something, which may lead to more, else after a
    pause. What is undone in parts that are `waiting` ends with time.
    """

    parts: frozenset[str]
    again: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    has_done: bool = False


Seen_co = TypeVar("Seen_co", covariant=True)
Done = TypeVar("Done")


class Consumer(Protocol[Seen_co, Done]):
    """Brings something outside to what the catalog says. It keeps no memory of what is outside: it reads it."""

    def parts(self, services: Collection[str] | None = None) -> Collection[str]:
        """Return the parts that follow one of `services`, or all."""

    def assess(self, parts: Collection[str] | None = None) -> Seen_co:
        """Read `parts`, or all, and return what the catalog asks of them.

        Idempotence: nothing is changed, outside or in the consumer, so anybody may call it, the commands too.
        Retry: none, an answer is about its moment. Raises HapsyncError where nobody answers.
        """

    def apply(
        self, parts: Collection[str], *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None
    ) -> Done | None:
        """Assess `parts`, do what is asked, and read again; None where nothing is asked of any of them.

        `is_full`: also read what decides nothing now. `before_acting` is called before anything is changed, and what
        it raises ends it.

        Idempotence: what is done follows from a reading of its own, so a second call does nothing, and after a kill
        or an error in the middle the next call ends what was begun. Retry: none here; what was refused or is not
        there yet is left to `verify`. Raises HapsyncError where nobody answers: all parts are due when somebody does.
        """

    def verify(self, done: Done) -> Left:
        """Return what `done` left undone, by the reading it ended with: the same assessment, which should be empty.

        Idempotence: it neither reads nor changes anything. Retry: the agent applies `again` after ever longer pauses.
        """
