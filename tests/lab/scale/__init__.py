"""What a fleet of balancers costs Consul's servers, measured and then modelled: `python -m tests.lab.scale`.

A real cluster (`cluster.py`) is watched in the manner of each strategy (`strategies.py`, `players.py`) by rising
numbers of balancers, and its servers are measured (`gauge.py`, `measure.py`). Lines are fitted to that (`fit.py`,
`costs.py`), and the model (`model.py`) computes from them what a larger fleet would cost; `report.py` writes it down.
"""
