"""The backends of a rendered haproxy.cfg that `[discover]` made."""

from hapsync.config.schema import Config
from hapsync.haproxy.cfg import HEADER, slot_names


def discovered_in(config: Config, text: str | None) -> frozenset[str]:
    """Return the backends in the file `text` that were discovered; nothing where hapsync did not write it."""
    if text is None or not config.discover or not text.startswith(HEADER):
        return frozenset()
    prefixes = tuple(one.prefix for one in config.discover.values())
    return frozenset(name for name, servers in slot_names(text).items() if name.startswith(prefixes) and servers)
