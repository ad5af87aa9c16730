"""The real programs that tests, demo and benchmarks run against: nothing in here is a mock.

`HAProxy` and `Consul` start the real programs, `Origins` serves the HTTP servers that HAProxy balances,
and `Load` plays the clients, which never retry, so that every request lost on the way is counted. Origins
and load run in processes of their own and are driven by JSON lines. All of them are context managers, put
their logs in a work folder the caller names, listen on loopback only, on ports from `ports`, and die with
the process that started them, however that ends. `tools` says where the programs are; tests/bootstrap.sh
puts them there.
"""
