"""The errors that hapsync raises; the tree names for each error who can correct it, and how.

HapsyncError
  ConfigError        the operator: mend hapsync.toml or the template
  CatalogError       nobody: Consul will answer again, and the last reading stays
    CutShort         nobody: a blocking query was cut on the way, and is sent again at once
    TooLarge         the operator: far more instances are registered than max_servers allows
    TooManyConnections  nobody: the agent takes no more connections; hapsync uses fewer, by turns
  RuntimeAPIError    nobody: HAProxy will answer again, and the next pass reads afresh
  ReloadError        the operator: HAProxy goes on with its old configuration
    BrokenPromise    a maintainer of hapsync: a planned file or reload would break a promise
    WouldEmpty       the operator: check the service's name, the token's rights, and Consul
    WouldLose        the operator: foreign servers are in neither the template nor Consul
    ReloadUnavailable  nobody: the reload could not begin, and is tried again after a while
    ConfigRefused    the operator: the check command refused the candidate; tried again on a change or after a pause
  LockHeld           the operator: another hapsync serves this HAProxy
  AgentError         the operator: the running agent refused the request, or did not answer
  Withdrawn          nobody: the asking command has left, or waits no longer; the request was not begun
"""

import enum
from collections.abc import Mapping

from hapsync.text import plural


class Exit(enum.IntEnum):
    """The exit codes of all commands; see docs/commands.md."""

    DONE = 0
    CANNOT_TELL = 1
    NOT_DONE = 2
    WRONG_USAGE = 64
    WRONG_CONFIG = 78


class HapsyncError(Exception):
    """The base of all errors with a message for an operator, which names the problem, the place and the remedy."""

    exit_code = Exit.CANNOT_TELL


class ConfigError(HapsyncError):
    """The configuration or the template cannot be used.

    `where` is the faulty file, and `problems` holds every problem found, each with the path of its key or its line.
    """

    exit_code = Exit.WRONG_CONFIG

    def __init__(self, where: str, problems: tuple[str, ...]) -> None:
        super().__init__(where, problems)
        self.where = where
        self.problems = problems

    def __str__(self) -> str:
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.where}: {plural(len(self.problems), 'problem')}\n{lines}"


class CatalogError(HapsyncError):
    """Consul did not give a whole, well-formed answer."""


class CutShort(CatalogError):
    """A blocking query ended without Consul's answer, as it does at a proxy with a shorter timeout.

    `held_seconds` is the time until the cut. `is_said`: a proxy reported a timeout; otherwise the agent may have
    gone.
    """

    def __init__(self, message: str, held_seconds: float, *, is_said: bool = False) -> None:
        super().__init__(message)
        self.held_seconds = held_seconds
        self.is_said = is_said


class TooLarge(CatalogError):
    """Consul's answer about a service is far larger than the service may need, and was not read to its end."""


class TooManyConnections(CatalogError):
    """The agent takes no more connections from the address of this machine.

    `is_said`: the agent reported the limit. Otherwise it closed a new connection, as it also does before a stop.
    """

    def __init__(self, message: str, *, is_said: bool = True) -> None:
        super().__init__(message)
        self.is_said = is_said


class RuntimeAPIError(HapsyncError):
    """HAProxy's socket gave no answer, or an answer that is no reading.

    `is_down`: the socket does not exist, or refuses, so no HAProxy runs behind it. Other causes of a missing answer
    (a worker that hangs, a full socket, a socket without access) prove nothing.
    """

    def __init__(self, message: str, *, is_down: bool = False) -> None:
        super().__init__(message)
        self.is_down = is_down


class ReloadError(HapsyncError):
    """A reload did not end with a new worker that shows the target."""


class ReloadUnavailable(ReloadError):
    """The reload could not begin, for a temporary reason: no master, a full disk, a hanging check command.

    No file and no process was changed.
    """


class BrokenPromise(ReloadError):
    """The planned file or reload would break a promise (plan/promises.py); nothing was changed."""


class WouldEmpty(ReloadError):
    """The rendered configuration would leave a backend that serves now without any server; nothing was changed."""


class WouldLose(ReloadError):
    """The rendered configuration lacks more ready foreign servers than the guard lets go; nothing was changed.

    `names` are these servers, by backend.
    """

    def __init__(self, message: str, names: Mapping[str, frozenset[str]]) -> None:
        super().__init__(message)
        self.names = names


class ConfigRefused(ReloadError):
    """The check command refused the rendered configuration; nothing was changed.

    `text` is the refused configuration, and `said` the output of the command; the message has its beginning.
    """

    def __init__(self, message: str, text: str = "", said: str = "") -> None:
        super().__init__(message)
        self.text = text
        self.said = said


class LockHeld(HapsyncError):
    """Another hapsync process holds the lock of this state directory."""


class AgentError(HapsyncError):
    """An agent listens on its socket, but refuses this user, or gives no answer."""


class Withdrawn(HapsyncError):
    """The asking command has left, or waits no longer; the request was not begun."""
