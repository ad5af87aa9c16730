"""hapsync keeps a live HAProxy's servers in step with Consul, without a reload.

The package reads in the order one pass runs:

    catalog -> desired -> diff <- observed        what Consul says, what HAProxy has, what differs
    plan -> runtime | render                      what to do: commands for the socket, or a new file
    growth, status                                when to grow the slots; what to tell a person

These modules and the ones they stand on (`model`, `config`, `cfgfile`, `text`, `errors`) are pure: values in,
values out. All input and output is in `hapsync.edge`. `hapsync.worker` joins the two into passes and decides
when to make one; `hapsync.cli` is the command line.
"""

__version__ = "0.1.0"
