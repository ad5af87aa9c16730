"""What the demo says: plain lines of at most 80 columns, each with the time since the start."""

import time

WIDTH = 79
_PLACE = 19  # elapsed time and speaker stand before the text


class Screen:
    """Prints lines as things happen, and keeps them: `scenes` are those said so far, each with its heading first."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.scenes: list[list[str]] = [[]]

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._start

    def heading(self, title: str, right: str = "") -> None:
        self.scenes.append([])
        print(flush=True)
        self.plain(f"{title} {right.rjust(WIDTH - len(title) - 1)}".rstrip())

    def line(self, speaker: str, text: str, ms: float | None = None) -> None:
        """One event; `ms` is how long it took from the change in Consul."""
        took = "" if ms is None else f"{ms:.1f} ms".rjust(WIDTH - _PLACE - len(text))
        self.plain(f"{self.elapsed_seconds:6.1f} s  {speaker:<8} {text}{took}")

    def plain(self, text: str = "") -> None:
        self.scenes[-1].append(text)
        print(text, flush=True)
