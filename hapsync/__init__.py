"""hapsync keeps a live HAProxy's servers in sync with Consul, without a reload.

The package has a room for each subject. A room imports only rooms below it:

    cli                      the command line
    inspect                  the data of `status` and `check`
    agent                    the agent: one thread owns all state
    haproxy                  HAProxy: its sockets, its configuration
    consul | plan | api      Consul; the plan, from catalog and servers; the agent's own socket
    system | config          the operating system; hapsync.toml
    model                    the value classes: frozen
    errors, text

`model`, `config` and `plan` are pure: values in, values out. docs/architecture.md follows one change through them.
"""

__version__ = "0.1.0"
