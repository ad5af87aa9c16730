"""`hapsync agent`: the daemon."""

import click

from hapsync.cli.options import config_option

EPILOG = """\b
Examples:
  hapsync agent
  hapsync agent --config ./hapsync.toml
  kill -HUP PID      read hapsync.toml and the template again (a broken one is
                     refused and the old one stays; a changed one is reloaded)
  kill -TERM PID     stop; HAProxy keeps what it has"""


@click.command("agent", epilog=EPILOG)
@config_option
def command(config_path: str) -> None:
    """Follow Consul until told to stop.

    Watches the services named in the configuration and brings every change to
    the running HAProxy through its Runtime API. Logs to standard error, one
    line for each change and each pass that made one.
    """
    import contextlib  # noqa: PLC0415
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from hapsync.agent.agent import Agent  # noqa: PLC0415
    from hapsync.agent.lock import locked  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.agent.state_file import load_state, state_path, unreadable_words  # noqa: PLC0415
    from hapsync.api.client import SOCKET_FILE  # noqa: PLC0415
    from hapsync.api.server import Requests  # noqa: PLC0415
    from hapsync.errors import ConfigError  # noqa: PLC0415
    from hapsync.system.files import make_folder  # noqa: PLC0415
    from hapsync.system.process import allow_many_files, collect_seldom, return_free_heap  # noqa: PLC0415
    from hapsync.text import reason  # noqa: PLC0415

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # ignored until the first settings are read
    return_free_heap()
    allow_many_files()
    collect_seldom()
    settings = read_settings(config_path)
    folders = settings.config.agent
    logging.basicConfig(level=folders.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", force=True)
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(locked(settings.config, config_path, "agent"))
        try:
            make_folder(folders.runtime_dir)
        except OSError as error:
            why = f"{reason(error)}; it must be there, writable by this user, with room"
            raise ConfigError(config_path, (f"agent.runtime_dir {folders.runtime_dir}: {why}",)) from error
        try:
            saved = load_state(settings.config)
        except OSError as error:
            what = unreadable_words(state_path(settings.config), error)
            raise ConfigError(config_path, (f"agent.state_dir: state file {what}",)) from error
        agent = Agent(settings, lambda: read_settings(config_path), saved, locks.keep)
        try:
            requests = Requests(str(Path(folders.runtime_dir, SOCKET_FILE)), agent.inbox.put)
        except OSError as error:
            why = f"the socket for requests cannot be made there: {reason(error)}"
            raise ConfigError(config_path, (f"agent.runtime_dir {folders.runtime_dir}: {why}",)) from error
        stack.callback(requests.close)
        signal.signal(signal.SIGTERM, lambda *_: agent.inbox.stop())
        signal.signal(signal.SIGINT, lambda *_: agent.inbox.stop())
        signal.signal(signal.SIGHUP, lambda *_: agent.inbox.reread())
        agent.run()
