"""What each way of keeping HAProxy in step costs, measured side by side: `python -m tests.lab`.

A cell is one way (`ways.py`) under all kinds of traffic at once (`client.py`, `traffic/`) through one event
(`events.py`). It is played in network namespaces that the lab makes and removes itself (`network.py`, `sweeper.py`),
and becomes one JSON line; `report.py` turns the lines into a table and a plot.
"""
