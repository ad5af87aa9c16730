"""The two locks of a process that keeps a HAProxy in sync: on its own state, and on haproxy.cfg."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hapsync.config.schema import Config
from hapsync.errors import ConfigError, LockHeld
from hapsync.system.files import make_folder, remove_leftovers
from hapsync.system.lock import HeldLock, lock, lock_owner
from hapsync.text import reason

log = logging.getLogger(__name__)


def state_lock(config: Config) -> str:
    """Return the path of the lock on hapsync's own state."""
    return str(Path(config.agent.state_dir, "lock"))


def file_lock(config: Config) -> str:
    """Return the path of the lock on haproxy.cfg: beside the file, or beside a loop of links."""
    file = Path(os.path.realpath(config.haproxy.config))
    return str(file.with_name(f".{file.name}.hapsync-lock"))


def lock_owners(config: Config) -> Iterator[str]:
    """Yield how the holder of the first lock describes itself, then the holder of the second.

    A removed state folder takes the first lock's file away from under the agent, not the second's. Raises
    PermissionError where this user may not read the first.
    """
    for path, may_be_secret in ((state_lock(config), False), (file_lock(config), True)):
        with contextlib.suppress(PermissionError) if may_be_secret else contextlib.nullcontext():
            owner = lock_owner(path, _trusted(config))
            if owner is not None:
                yield owner


class Locks:
    """Both locks, held."""

    def __init__(self, state_dir: str, held: Sequence[HeldLock]) -> None:
        self._state_dir = state_dir
        self._held = held
        self._error: str | None = None

    def keep(self) -> None:
        """Make removed files of the locks again, and log it; to be called now and then.

        No error is raised: until the files are there again, the names in the kernel keep another hapsync out.
        """
        try:
            made = [one.keep() for one in self._held]
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                make_folder(self._state_dir)
            return
        except (LockHeld, OSError) as error:
            if str(error) != self._error:
                self._error = str(error)
                log.error("a lock was removed: %s; see to it that no other hapsync keeps this HAProxy", error)  # noqa: TRY400
            return
        self._error = None
        if any(made):
            log.warning("the file of a lock was removed; made again")


@contextlib.contextmanager
def locked(config: Config, where: str, command: str) -> Iterator[Locks]:
    """Hold both locks while the block runs, as the hapsync `command`; `where` names hapsync.toml in messages.

    Two agents with folders of their own would still write the same haproxy.cfg: the second lock lies beside it.

    In a folder that cannot be written, hapsync goes on without the second lock. Half-written files of a killed
    hapsync are removed first.

    Raises LockHeld when another process holds one of them, and ConfigError where the first cannot be made.
    """
    owner = f"hapsync {command}, pid {os.getpid()},"
    state_dir, file = config.agent.state_dir, config.haproxy.config
    trusted = tuple(_trusted(config))
    held: list[HeldLock] = []
    with contextlib.ExitStack() as stack:
        try:
            make_folder(state_dir)
            held.append(stack.enter_context(lock(state_lock(config), owner, trusted)))
        except OSError as error:
            what = f"agent.state_dir {state_dir}: {reason(error)}; it must be there, writable by this user, with room"
            raise ConfigError(where, (what,)) from error
        try:
            held.append(stack.enter_context(lock(file_lock(config), owner, trusted)))
        except OSError as error:
            log.warning("no lock beside %s: %s; see to it that no other hapsync keeps this HAProxy", file, error)
        remove_leftovers(*os.path.split(os.path.realpath(file)))
        for folder in (state_dir, config.agent.runtime_dir):
            remove_leftovers(folder)
        yield Locks(state_dir, held)


def _trusted(config: Config) -> Iterator[str]:
    """Yield the paths whose owners may keep this HAProxy."""
    yield from (config.agent.state_dir, config.agent.runtime_dir, config.haproxy.config, config.haproxy.socket)
