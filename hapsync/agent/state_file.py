"""The memory's file: what people asked for and what the guard has seen, over a restart of hapsync."""

import logging
import os
import time
from pathlib import Path

import attrs

from hapsync.config.schema import Config
from hapsync.model.overrides import VERSION, Lost, Memory, memory_from_json, memory_to_json, other_version
from hapsync.system.files import keep_aside, read_text_or_none, write_in_folder

log = logging.getLogger(__name__)

MEMORY_FILE = "memory.json"


def memory_path(config: Config) -> str:
    """Return where the memory is kept."""
    return str(Path(config.agent.state_dir, MEMORY_FILE))


def load_memory(config: Config) -> Memory:
    """Return the memory; empty where there is none yet. Only for whoever holds the lock.

    A damaged file is kept aside as `memory.json.damaged` (with a number where that is there), with a warning in the
    log; the memory then is empty but for `lost`. One of another version stays where it is, and the memory says so.

    Raises OSError when the file cannot be read: then nobody knows what people asked for, and it must not be lost.
    """
    path = memory_path(config)
    memory = peek_memory(config)
    if memory.unread_version is not None:
        log.error("%s; `hapsync thaw --acknowledge` goes on without", unread_words(path, memory.unread_version))
    if memory.lost is not None and memory.lost.file == path:
        aside = _free_name(f"{path}.damaged")
        log.error("%s is damaged: holds and a freeze, if there were any, are forgotten; kept as %s", path, aside)
        memory = attrs.evolve(memory, lost=attrs.evolve(memory.lost, file=aside))
        keep_aside(path, aside.removeprefix(path))
        save_memory(config, memory)  # in the damaged file's place: a killed agent must not forget that it was there
    return memory


def peek_memory(config: Config) -> Memory:
    """Return the memory, for whoever does not hold the lock; a damaged file stays, and is named in `lost`.

    Raises OSError when the file cannot be read.
    """
    path = memory_path(config)
    text = read_text_or_none(path)
    if text is None:
        return Memory()
    memory = memory_from_json(text)
    if memory is not None:
        return memory
    if (version := other_version(text, VERSION)) is not None:
        return Memory(unread_version=version)
    return Memory(lost=Lost(time.time(), path))


def unread_words(path: str, version: str) -> str:
    """Return what is to be said of a memory of another version."""
    what = f"version {version}, and this hapsync reads version {VERSION}"
    return f"{path} is of {what}: it may hold a freeze and holds, so it is kept and nothing is changed"


def keep_unread_aside(config: Config, version: str) -> str:
    """Copy the memory of another version aside before it is written over; return the copy's name. Raises OSError."""
    path = memory_path(config)
    aside = _free_name(f"{path}.version-{version}")
    keep_aside(path, aside.removeprefix(path))
    return aside


def _free_name(path: str) -> str:
    """Return `path`, or with the first number behind it that no file has; the last one of a hundred in any case."""
    names = [path, *(f"{path}.{number}" for number in range(2, 100))]
    return next((name for name in names if not os.path.lexists(name)), names[-1])


def save_memory(config: Config, memory: Memory, *, durable: bool = True) -> None:
    """Write the memory; `durable`: it is on the disk when this returns. Raises OSError; then the old one stands."""
    write_in_folder(config.agent.state_dir, MEMORY_FILE, memory_to_json(memory), durable=durable)
