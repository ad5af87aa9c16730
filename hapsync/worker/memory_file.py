"""The memory's file: what people asked for and what the guard has seen, over a restart of hapsync."""

import logging
from pathlib import Path

from hapsync.config import Config
from hapsync.edge.files import read_text_or_none, write_in_folder
from hapsync.memory import Memory, memory_from_json, memory_to_json

log = logging.getLogger(__name__)

MEMORY_FILE = "memory.json"


def memory_path(config: Config) -> str:
    """Return where the memory is kept."""
    return str(Path(config.agent.state_dir, MEMORY_FILE))


def load_memory(config: Config) -> Memory:
    """Return the memory; empty where there is none yet. Only for whoever holds the lock.

    A damaged file is kept aside as `memory.json.damaged`, with a warning in the log, and the memory is empty.

    Raises OSError when the file cannot be read: then nobody knows what people asked for, and it must not be lost.
    """
    path = memory_path(config)
    text = read_text_or_none(path)
    if text is None:
        return Memory()
    memory = memory_from_json(text)
    if memory is not None:
        return memory
    aside = f"{path}.damaged"
    Path(path).replace(aside)
    log.warning("%s is damaged: holds and a freeze, if there were any, are forgotten; kept as %s", path, aside)
    return Memory()


def peek_memory(config: Config) -> Memory | None:
    """Return the memory, for whoever does not hold the lock; None when it is damaged.

    Raises OSError when the file cannot be read.
    """
    text = read_text_or_none(memory_path(config))
    return Memory() if text is None else memory_from_json(text)


def save_memory(config: Config, memory: Memory, *, durable: bool = True) -> None:
    """Write the memory; `durable`: it is on the disk when this returns. Raises OSError; then the old one stands."""
    write_in_folder(config.agent.state_dir, MEMORY_FILE, memory_to_json(memory), durable=durable)
