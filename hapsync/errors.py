"""The errors hapsync raises, named by what went wrong and so by who can put it right.

HapsyncError
  ConfigError        the operator: mend hapsync.toml or the template
  CatalogError       nobody: Consul will answer again; the last reading stays
    CutShort         nobody: an answer that Consul held back was cut on the way; it is asked for again at once
    TooLarge         the operator: more instances are registered than max_servers lets in by far
    TooManyConnections  nobody: the agent takes no more of them; hapsync goes on with fewer, by turns
  RuntimeAPIError    nobody: HAProxy will answer again; the next pass reads afresh
  ReloadError        the operator: HAProxy goes on with what it has
    BrokenPromise    whoever maintains hapsync: what it was about to write would break a promise of its own
    WouldEmpty       the operator: is the service's name right, may the token read it, is Consul up?
    WouldLose        the operator: foreign servers would go that neither the template nor Consul has
    ReloadUnavailable  nobody: it could not be tried; tried again after a while
    ConfigRefused    the check command refused the candidate; not tried again until something changes
  LockHeld           the operator: another hapsync serves this HAProxy
  AgentError         the operator: the running agent could not be asked, or has not answered
  Withdrawn          nobody: who asked for it has left, or waits no longer; it was not begun
"""

from collections.abc import Mapping

from hapsync.text import plural


class HapsyncError(Exception):
    """Base of all errors that end in a message for an operator; says what, where and what to do."""


class ConfigError(HapsyncError):
    """The configuration or the template cannot be used.

    `problems` holds every problem found, each with the path of its key or its line.
    """

    def __init__(self, where: str, problems: tuple[str, ...]) -> None:
        """Take the file (or template) at fault and the problems in it, one line each."""
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

    `held_seconds` is how long it was held; `is_said`: a proxy said that it took too long. Else the agent
    may have gone.
    """

    def __init__(self, message: str, held_seconds: float, *, is_said: bool = False) -> None:
        """Take the message, how long the query was held, and whether a proxy answered in Consul's place."""
        super().__init__(message)
        self.held_seconds = held_seconds
        self.is_said = is_said


class TooLarge(CatalogError):
    """Consul's answer about a service is far larger than what the service may need, and was not read to its end."""


class TooManyConnections(CatalogError):
    """The agent takes no more connections from the address of this machine.

    `is_said`: it said so. Else it closed a new one, as it also does where it is about to stop.
    """

    def __init__(self, message: str, *, is_said: bool = True) -> None:
        """Take what to tell, and whether the agent said so itself."""
        super().__init__(message)
        self.is_said = is_said


class RuntimeAPIError(HapsyncError):
    """HAProxy's socket did not answer, or answered something that is not a reading.

    `is_down`: there is no such socket, or it refuses, so no HAProxy runs behind it. Other causes of a missing answer
    (a worker that hangs, a full socket, a socket without access) prove nothing.
    """

    def __init__(self, message: str, *, is_down: bool = False) -> None:
        """Take what to tell, and whether it proves that no HAProxy is there."""
        super().__init__(message)
        self.is_down = is_down


class ReloadError(HapsyncError):
    """A reload did not end with a new worker that shows the target."""


class ReloadUnavailable(ReloadError):
    """The reload could not even be begun, and that may pass: no master, no room, a check that hangs.

    Nothing was changed.
    """


class BrokenPromise(ReloadError):
    """The file or the reload that was decided on would break a promise (plan/promises.py); nothing was changed."""


class WouldEmpty(ReloadError):
    """The rendered configuration would leave a backend that serves now without any server; nothing was changed."""


class WouldLose(ReloadError):
    """The rendered configuration lacks more ready foreign servers than the guard lets go; nothing was changed.

    `names` are these servers, by backend.
    """

    def __init__(self, message: str, names: Mapping[str, frozenset[str]]) -> None:
        """Take what to tell, and who would be lost."""
        super().__init__(message)
        self.names = names


class ConfigRefused(ReloadError):
    """The check command refused the rendered configuration; nothing was changed.

    `text` is that configuration, `said` the output of the command; the message has the beginning of it.
    """

    def __init__(self, message: str, text: str = "", said: str = "") -> None:
        """Take what to tell, the configuration that was refused, and what the command said of it."""
        super().__init__(message)
        self.text = text
        self.said = said


class LockHeld(HapsyncError):
    """Another hapsync process holds the lock of this state directory."""


class AgentError(HapsyncError):
    """An agent listens on its socket, but it may not be asked, or gives no answer."""


class Withdrawn(HapsyncError):
    """The asking command has left, or waits no longer; the request was not begun."""
