"""Looking at something again and again while something else goes on: `Looks`."""

import abc
import threading
from types import TracebackType
from typing import ClassVar, Self


class Looks(abc.ABC):
    """Looks in a thread of its own, from `__enter__` until `end`."""

    every_seconds: ClassVar[float] = 0.02
    """From the end of a look to the next."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=type(self).__name__, daemon=True)

    @abc.abstractmethod
    def note(self) -> None:
        """Look once, and note what is seen; what it raises ends the looking."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Look no more; return once the last look is over. Harmless when repeated."""
        self._ending.set()
        self._thread.join()

    def _keep(self) -> None:
        self.note()
        while not self._ending.wait(self.every_seconds):
            self.note()
