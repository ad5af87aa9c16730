"""The command line: `hapsync agent | apply | plan | status | hold | drain | ... | check`.

The module of a command is imported when the command is called, and its functions import their own needs: all imports
at once cost 330 ms and 46 MB.
"""

import importlib
import sys
from typing import NoReturn

import click

from hapsync import __version__
from hapsync.errors import Exit, HapsyncError

COMMANDS = {
    "agent": "Follow Consul until told to stop; the daemon.",
    "apply": "Make one pass, for cron or an operator.",
    "plan": "Show what a pass would do; change nothing.",
    "status": "Show each server as HAProxy has it, beside what Consul asks for.",
    "hold": "Put a server in maint, and keep it there.",
    "drain": "Put a server in drain, and keep it there.",
    "release": "Give a server back to hapsync, or allow a backend's deferred removals.",
    "freeze": "Change nothing in HAProxy until thawed.",
    "thaw": "Go on after a freeze.",
    "render": "Print the haproxy.cfg that hapsync would write.",
    "check": "Check whether everything hapsync needs is in order.",
}

_OPERATOR = frozenset({"hold", "drain", "release", "freeze", "thaw"})
"""The commands of the module `operator`; each other command is `command` in a module of its own."""

EPILOG = """\b
Examples:
  hapsync check                            is everything in order?
  hapsync plan --config ./hapsync.toml     what would it do?
  hapsync agent                            do it, for as long as it runs
  hapsync status web                       what does backend web look like?
  hapsync drain web/srv3 --for 30m         let the sessions on one server end
  hapsync freeze --reason "Consul upgrade" hands off HAProxy

\b
Every command takes --config FILE after its name (else HAPSYNC_CONFIG, else
/etc/hapsync/hapsync.toml). Exit codes: 0 in sync or done, 2 not, 1 cannot
tell, 64 wrong usage, 78 wrong configuration."""


class _Commands(click.Group):
    """The commands by name; the module of a command is imported on its first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, name = ("operator", cmd_name) if cmd_name in _OPERATOR else (cmd_name, "command")
        command = getattr(importlib.import_module(f"hapsync.cli.{module}"), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="hapsync")
def hapsync() -> None:
    """Keep a live HAProxy's servers in sync with Consul, without a reload."""


def main() -> NoReturn:
    """Run the command line and exit; the entry point of the `hapsync` script."""
    sys.exit(run(sys.argv[1:]))


def say(what: object) -> None:
    """Print one message to standard error: standard output has nothing but what was asked for."""
    click.echo(f"hapsync: {what}", err=True)


def run(arguments: list[str]) -> int:
    """Run the command line with `arguments` and return the exit code; errors become a message on stderr."""
    try:
        code = hapsync.main(arguments, prog_name="hapsync", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.WRONG_USAGE
    except click.UsageError as error:
        error.show()
        return Exit.WRONG_USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return Exit.CANNOT_TELL
    except (HapsyncError, OSError) as error:
        say(error)
        return error.exit_code if isinstance(error, HapsyncError) else Exit.CANNOT_TELL
    return code if isinstance(code, int) else 0


__all__ = ["COMMANDS", "main", "run", "say"]
