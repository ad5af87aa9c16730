"""The state file: the operators' requests and the guard state, kept over a restart of hapsync."""

import logging
import os
import pwd
import time
from pathlib import Path

import attrs

from hapsync.config.schema import Config
from hapsync.model.json_file import other_version
from hapsync.model.overrides import VERSION, Lost, SavedState, state_from_json, state_to_json
from hapsync.system.files import keep_copy, read_text_or_none, write_in_folder
from hapsync.text import reason

log = logging.getLogger(__name__)

STATE_FILE = "memory.json"


def state_path(config: Config) -> str:
    """Return the path of the state file."""
    return str(Path(config.agent.state_dir, STATE_FILE))


def load_state(config: Config) -> SavedState:
    """Return the saved state; empty where there is no file yet. Only the holder of the lock may call this function.

    A damaged file is kept as `memory.json.damaged` (with a number where this name is taken), with a warning in the
    log; the state then is empty but for `lost`. A file of another version stays in its place, and `unread_version`
    names it.

    Raises OSError when the file cannot be read: its requests are then unknown, and must not be lost.
    """
    path = state_path(config)
    saved = peek_state(config)
    if saved.unread_version is not None:
        what = f"version {saved.unread_version}, and this hapsync reads version {VERSION}"
        why = "it may contain a freeze and overrides, so it is kept and nothing is changed"
        log.error("%s is of %s: %s; `hapsync thaw --acknowledge` goes on without", path, what, why)
    if saved.lost is not None and saved.lost.file == path:
        copy = _free_name(f"{path}.damaged")
        log.error("%s is damaged: its overrides and freeze are lost; kept as %s", path, copy)
        saved = attrs.evolve(saved, lost=attrs.evolve(saved.lost, file=copy))
        keep_copy(path, copy.removeprefix(path))
        save_state(config, saved)  # replaces the damaged file: a killed agent must not forget the damage
    return saved


def peek_state(config: Config) -> SavedState:
    """Return the saved state for a process without the lock; a damaged file stays, and `lost` names it.

    Raises OSError when the file cannot be read.
    """
    path = state_path(config)
    text = read_text_or_none(path)
    if text is None:
        return SavedState()
    saved = state_from_json(text)
    if saved is not None:
        return saved
    if (version := other_version(text, VERSION)) is not None:
        return SavedState(unread_version=version)
    return SavedState(lost=Lost(time.time(), path))


def unreadable_words(path: str, error: OSError) -> str:
    """Return why the state file cannot be read, and the remedy where its owner is the cause."""
    if not isinstance(error, PermissionError):
        return f"{path} cannot be read: {reason(error)}"
    try:
        owner, user = (pwd.getpwuid(uid).pw_name for uid in (Path(path).stat().st_uid, os.geteuid()))
    except (OSError, KeyError):
        return f"{path} cannot be read: {reason(error)}"
    return f"{path} cannot be read by {user}, its owner is {owner}; `chown {user}: {path}`"


def keep_unread_copy(config: Config, version: str) -> str:
    """Copy the state file of another version before it is overwritten; return the copy's name. Raises OSError."""
    path = state_path(config)
    copy = _free_name(f"{path}.version-{version}")
    keep_copy(path, copy.removeprefix(path))
    return copy


def _free_name(path: str) -> str:
    """Return `path`, or `path` with the first free number behind it; the last one of a hundred in any case."""
    names = [path, *(f"{path}.{number}" for number in range(2, 100))]
    return next((name for name in names if not os.path.lexists(name)), names[-1])


def save_state(config: Config, saved: SavedState, *, durable: bool = True) -> None:
    """Write the state file; `durable`: it is on the disk at the return. Raises OSError; the old file stays then."""
    write_in_folder(config.agent.state_dir, STATE_FILE, state_to_json(saved), durable=durable)
