"""The queue of the agent's thread: other threads, and signals, wake the agent by it."""

import contextlib
import queue
from collections import deque

from hapsync.api.server import Pending


class Inbox:
    """All that the agent's thread waits for. Any thread may call `put` and `wake`, and a signal handler the others.

    `requests` are the operators' requests that wait for an answer. `has_to_reread`: the settings are to be read
    again, and the agent clears it. `has_to_stop`: the agent is to end.
    """

    def __init__(self) -> None:
        self.requests: deque[Pending] = deque()
        self.has_to_reread = False
        self.has_to_stop = False
        self._queue: queue.SimpleQueue[str | Pending] = queue.SimpleQueue()

    def put(self, service_or_request: str | Pending) -> None:
        """Wake the agent for a service with a new reading, or for an operator's request."""
        self._queue.put(service_or_request)

    def wake(self) -> None:
        """Wake the agent: a future is done, or a permit has come."""
        self._queue.put("")

    def stop(self) -> None:
        """Ask the agent to stop."""
        self.has_to_stop = True
        self.wake()

    def reread(self) -> None:
        """Ask the agent to read hapsync.toml and the template again."""
        self.has_to_reread = True
        self.wake()

    def wait(self, timeout_seconds: float) -> set[str]:
        """Sleep until a wake-up comes, or the time is over; return the services with new readings.

        Several wake-ups become one.
        """
        services: set[str] = set()
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get(timeout=timeout_seconds)
                timeout_seconds = 0.0
                if isinstance(item, str):
                    services.add(item)
                else:
                    self.requests.append(item)
        return services
