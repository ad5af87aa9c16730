"""Who keeps a HAProxy in step holds two locks: of its own state, and of the file HAProxy is started with."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from hapsync.config import Config
from hapsync.edge.files import lock, make_folder, remove_leftovers, remove_leftovers_in
from hapsync.errors import ConfigError
from hapsync.text import reason

log = logging.getLogger(__name__)


def state_lock(config: Config) -> str:
    """Return where the lock of hapsync's own state is."""
    return str(Path(config.agent.state_dir, "lock"))


def file_lock(config: Config) -> str:
    """Return where the lock of the file HAProxy is started with is: beside it."""
    file = Path(config.haproxy.config).resolve()
    return str(file.with_name(f".{file.name}.hapsync-lock"))


@contextlib.contextmanager
def locked(config: Config, where: str, command: str) -> Iterator[None]:
    """Hold both locks while the block runs, as the hapsync `command`; `where` names hapsync.toml in messages.

    Two agents with folders of their own would still write the same haproxy.cfg: the second lock lies beside it.

    Where that cannot be made, in a folder that cannot be written, it is done without.
    What a killed hapsync left half written is removed first.

    Raises LockHeld when another process holds one of them, and ConfigError where the first cannot be made.
    """
    owner = f"hapsync {command}, pid {os.getpid()},"
    state_dir, file = config.agent.state_dir, config.haproxy.config
    with contextlib.ExitStack() as stack:
        try:
            make_folder(state_dir)
            stack.enter_context(lock(state_lock(config), owner))
        except OSError as error:
            what = f"agent.state_dir {state_dir}: {reason(error)}; it must be there, writable by this user, with room"
            raise ConfigError(where, (what,)) from error
        try:
            stack.enter_context(lock(file_lock(config), owner))
        except OSError as error:
            log.warning("no lock beside %s: %s; see to it that no other hapsync keeps this HAProxy", file, error)
        remove_leftovers(file)
        for folder in (state_dir, config.agent.runtime_dir):
            remove_leftovers_in(folder)
        yield
