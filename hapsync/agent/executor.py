"""Work beside the agent's thread: a function of values that returns a value, and touches no state of the agent."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Executor:
    """Runs functions in threads of their own. A hanging one keeps no agent from ending (daemon threads)."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Take what wakes the agent's thread by its queue; it then finds the future done."""
        self._wake = wake

    def submit(self, name: str, function: Callable[[], T]) -> Future[T]:
        """Run `function` in a thread named `name`; return the future of its value, or of what it raised."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  # raised again by `result`, in the agent's thread
                future.set_exception(error)
            self._wake()

        threading.Thread(target=run, name=name, daemon=True).start()
        return future
