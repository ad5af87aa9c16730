"""What each way of keeping HAProxy in sync costs, measured side by side: `python -m tests.lab`.

A cell is one way (`ways`) under all kinds of traffic at once (`client.py`, `traffic/`) through one event
(`events.py`). It is played in network namespaces that the lab makes and removes itself (`network.py`, `sweeper.py`),
and becomes one JSON line; `report.py` turns the lines into tables (`tables.py`) and plots (`plots.py`).

When a change has come about is seen by a program beside HAProxy (`looking.py`); what a way takes of the machine is
counted in `costs.py`, what it asks of Consul in `asked.py`.
"""
