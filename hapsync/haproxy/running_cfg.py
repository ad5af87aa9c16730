"""The configuration of a running HAProxy, read from the files of its start, which HAProxy names itself."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from hapsync.haproxy.cfg import is_sealed
from hapsync.haproxy.commands import SHOW_FILES
from hapsync.haproxy.socket import RuntimeSession
from hapsync.model.server import HAProxyProcess
from hapsync.system.files import read_text
from hapsync.text import reason, shown

_NAME = "HAPROXY_CFGFILES="


@attrs.frozen
class InForce:
    """The text of HAProxy's files in their order, and why HAProxy may run with another text, or empty."""

    text: str
    unknown: str = ""


def read_in_force(session: RuntimeSession, process: HAProxyProcess, config: str) -> InForce:
    """Return the configuration of the worker `process` that answers on `session`; `config` is hapsync's own file.

    `config` replaces a single file that does not exist here, for HAProxy may run in a container of its own. A single
    file that exists here counts as well, for a reload command may assemble it from `config` and others.

    HAProxy runs with a file that hapsync wrote, for hapsync installs other lines only with a reload. A file of others
    is certain only if it is older than the worker.

    Raises RuntimeAPIError.
    """
    (reply,) = session.ask((SHOW_FILES,))
    named = next((line.removeprefix(_NAME) for line in reply.split("\n") if line.startswith(_NAME)), "")
    names = [name for name in named.strip().split(";") if name]
    texts: list[str] = []
    unknown = "" if names else f"HAProxy does not say which files it was started with: {shown(reply.strip())}"
    for name in _single(names, config) if len(names) <= 1 else _absolute(names, config):
        try:
            text, is_older = read_text(name), _is_older(name, process)
        except (OSError, ValueError) as error:
            unknown = unknown or f"HAProxy's file {shown(name)} cannot be read by this user: {shown(reason(error))}"
            continue
        if len(names) != 1 or not any(text in one for one in texts):
            texts.append(text)
        if not is_older and not is_sealed(text):
            unknown = unknown or f"{shown(name)} was changed after HAProxy started; reload HAProxy"
    return InForce("\n".join(texts), unknown)


def _single(names: Sequence[str], config: str) -> list[str]:
    """Return the single file of `names`, where it exists here and is not `config`, and `config`."""
    return [*(name for name in names if Path(name).is_absolute() and _is_another(name, config)), config]


def _is_another(name: str, config: str) -> bool:
    try:
        found = os.stat(name)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True  # the file may exist, but this user may not read it
    try:
        return not os.path.samestat(found, os.stat(config))  # noqa: PTH116
    except OSError:
        return True


def _absolute(names: Sequence[str], config: str) -> list[str]:
    """Return `names`, with `config` for its own name: a relative name begins at HAProxy's working directory."""
    own = Path(config).name
    same = [name for name in names if Path(name).name == own and (not Path(name).is_absolute() or name == config)]
    return [config if same == [name] else name for name in names]


def _is_older(name: str, process: HAProxyProcess) -> bool:
    found = os.stat(name)  # noqa: PTH116
    # The uptime is in whole seconds, rounded down.
    return max(found.st_mtime, found.st_ctime) < time.time() - process.uptime_seconds - 1
