"""Every scenario on every HAProxy, run for real: `python -m tests.matrix`.

`scenarios.py` has the stories, each played on a stage of its own under load; `__main__.py` plays them for each
version in a process of its own, whose HAProxy is the one that `tests/roots.sh` fetched, and prints one table.
"""
