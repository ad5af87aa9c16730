"""How far hapsync is from the least there is to do: `python -m tests.bench [a|b|c|d|e ...] [--seed N]`.

Each benchmark measures hapsync and, in the same run, in turns, on the same Consul and HAProxy, its *floor*: the
barest code that has the same effect, without reading back, checking, budget or bookkeeping. The ratio of the two
means something on a busy machine too; the milliseconds do not. Servers have no health checks, so that the machine's
time goes to what is measured.
"""
