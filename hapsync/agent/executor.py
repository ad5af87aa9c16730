"""Work beside the agent's thread: a function of values that returns a value, and touches no state of the agent."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from hapsync.errors import HapsyncError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Executor:
    """Runs functions in threads of their own. A hanging one keeps no agent from ending: the threads are daemons."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """Take what wakes the agent's thread by its queue; it then finds the future done."""
        self._wake = wake

    def submit(self, name: str, function: Callable[[], T]) -> Future[T | HapsyncError]:
        """Run `function` in a thread named `name`; return the future of its value.

        A HapsyncError that `function` raises is a value, too. The future raises any other exception, a defect.
        """
        future: Future[T | HapsyncError] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except HapsyncError as error:
                future.set_result(error)
            except Exception as defect:  # noqa: BLE001  # raised by whoever takes the result
                future.set_exception(defect)
            self._wake()

        threading.Thread(target=run, name=name, daemon=True).start()
        return future


def value_of(future: Future[T | HapsyncError]) -> T | HapsyncError:
    """Wait for the value of `future` and return it; a defect is logged, and its value is a HapsyncError."""
    defect = future.exception()
    if defect is None:
        return future.result()
    log.error("a defect of hapsync, please report it; HAProxy keeps what it has", exc_info=defect)
    return HapsyncError("ended without a result")
