"""A note in the state folder for as long as haproxy.cfg is replaced and HAProxy reloaded.

Killed in between, hapsync leaves a worker that is older than its file. Where their servers are the same nothing else
would show it.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from hapsync.config.schema import Config
from hapsync.system.files import read_text_or_none, write_in_folder

_FILE = "reload-under-way"


@contextlib.contextmanager
def noted(config: Config, pid: int, text: str) -> Iterator[None]:
    """Keep the note that the worker `pid` is about to be reloaded into `text` while the block runs.

    It stays where the block fails and leaves the new text in place. A disk that is full keeps no reload away.
    """
    with contextlib.suppress(OSError):
        write_in_folder(config.agent.state_dir, _FILE, f"{pid} {_digest(text)}\n", durable=False)
    try:
        yield
    except BaseException:
        if not is_half_done(config, pid):
            _forget(config)
        raise
    _forget(config)


def is_half_done(config: Config, pid: int) -> bool:
    """Return whether the worker `pid` was to be reloaded into the file as it stands, and was not.

    Where the note is about another worker it is removed; only for whoever holds the lock.
    """
    try:
        note = read_text_or_none(str(Path(config.agent.state_dir, _FILE)))
        if note is None:
            return False
        words = note.split()
        if words[:1] == [str(pid)]:
            return words[1:] == [_digest(read_text_or_none(config.haproxy.config) or "")]
    except OSError:
        return False
    _forget(config)
    return False


def _forget(config: Config) -> None:
    with contextlib.suppress(OSError):
        Path(config.agent.state_dir, _FILE).unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
