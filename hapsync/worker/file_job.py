"""Installs a rendered file while the worker goes on: the check command takes longer than a change may wait."""

import threading
from collections.abc import Callable

from hapsync.config import HAProxyConfig
from hapsync.desired import Desired
from hapsync.edge.reload import install
from hapsync.errors import HapsyncError
from hapsync.worker.settings import Settings


class FileJob(threading.Thread):
    """Checks and installs `text`; speaks to no HAProxy. Once it is not alive, `error` says how it ended.

    `wanted` and `settings` are what the text was made from.
    """

    def __init__(self, text: str, wanted: Desired, settings: Settings, when_done: Callable[[], None]) -> None:
        super().__init__(name="file", daemon=True)
        self.wanted = wanted
        self.settings = settings
        self.error: HapsyncError | None = None
        self._text = text
        self._config: HAProxyConfig = settings.config.haproxy
        self._when_done = when_done

    def run(self) -> None:
        """Do it, and tell."""
        try:
            install(self._config, self._text)
        except HapsyncError as error:
            self.error = error
        finally:
            self._when_done()
