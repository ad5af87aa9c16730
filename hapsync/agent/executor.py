"""Work beside the agent's thread: functions of values that return a value, and touch no state of the agent."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from hapsync.errors import HapsyncError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Executor:
    """Runs each function in a daemon thread of its own: a hanging one does not keep the agent from its end."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """Take a function that wakes the agent's thread by its queue; the thread then finds the future done."""
        self._wake = wake

    def submit(self, name: str, function: Callable[[], T]) -> Future[T | HapsyncError]:
        """Run `function` in a thread named `name`; return the future of its value.

        Where the machine has no thread left, the caller's thread runs `function`: late is better than never.

        A HapsyncError that `function` raises is a value, too. The future raises any other exception, a defect.
        """
        future: Future[T | HapsyncError] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except HapsyncError as error:
                future.set_result(error)
            except Exception as defect:  # noqa: BLE001  # the future raises it for the caller
                future.set_exception(defect)
            self._wake()

        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except RuntimeError as error:
            log.warning("no thread for %s, the agent waits for it: %s", name, error)
            run()
        return future


def value_of(future: Future[T | HapsyncError]) -> T | HapsyncError:
    """Wait for the value of `future` and return it; a defect is logged, and its value is a HapsyncError."""
    defect = future.exception()
    if defect is None:
        return future.result()
    log.error("a defect of hapsync, please report it; HAProxy keeps what it has", exc_info=defect)
    return HapsyncError("ended without a result")
