"""The check of a configuration, beside the passes: it may take longer than a change may wait."""

import threading
from collections.abc import Callable

from hapsync.agent.config_file import Candidate
from hapsync.agent.settings import Settings
from hapsync.errors import HapsyncError, ReloadError
from hapsync.haproxy.reload import check_text


class CheckJob(threading.Thread):
    """Has the check command look at a candidate; it may take longer than a change may wait.

    Once `is_done` is set, `error` says how it ended.
    """

    def __init__(self, candidate: Candidate, settings: Settings, when_done: Callable[[], None]) -> None:
        super().__init__(name="check", daemon=True)
        self.candidate = candidate
        self.settings = settings
        self.error: HapsyncError | None = ReloadError("the check ended without a result")
        self.is_done = threading.Event()
        self._when_done = when_done

    def run(self) -> None:
        """Do it, and tell."""
        try:
            check_text(self.settings.config.haproxy, self.candidate.text)
            self.error = None
        except HapsyncError as error:
            self.error = error
        finally:
            self.is_done.set()
            self._when_done()
