"""The backends of which HAProxy's answer cannot be read: remembered, and told in the log once each."""

import logging
from collections.abc import Collection, Mapping

from hapsync.model.server import Observed

log = logging.getLogger(__name__)


class Unread:
    """By backend, why the last answer of HAProxy about it could not be read."""

    def __init__(self) -> None:
        self.why: Mapping[str, str] = {}

    def note(self, observed: Observed, backends: Collection[str]) -> None:
        """Take what `observed`, the last reading of `backends`, says; log what began and what ended."""
        before = self.why
        self.why = {**{name: why for name, why in before.items() if name not in backends}, **observed.unread}
        for name, why in self.why.items():
            if name not in before:
                log.error("backend %s cannot be read, the others are followed: %s", name, why)
        for name in before:
            if name not in self.why:
                log.info("backend %s can be read again", name)

    def only(self, backends: Collection[str]) -> None:
        """Forget all but `backends`."""
        self.why = {name: why for name, why in self.why.items() if name in backends}
