"""The traffic of the lab: programs that send it, and account for every request (`sent.py`), a module a protocol.

`python -m tests.lab.traffic` is all of them in one process, driven by `tests/lab/client.py`.
"""
