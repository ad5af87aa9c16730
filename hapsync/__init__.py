"""hapsync keeps a live HAProxy's servers in sync with Consul, without a reload.

The package has a room for each subject; a room imports only rooms below it:

    cli                      the command line
    inspect                  what `status` and `check` see
    agent                    the agent: one thread that owns all state
    haproxy                  HAProxy: its sockets, its configuration
    consul | plan | api      Consul; from catalog and servers to a plan; the agent's own socket
    system | config          the operating system; hapsync.toml
    model                    the nouns: frozen values
    errors, text

`model`, `config` and `plan` are pure: values in, values out. docs/architecture.md follows one change through them.
"""

__version__ = "0.1.0"
