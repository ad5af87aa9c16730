"""`make demo`: a real HAProxy under real traffic follows a real Consul, shown as it happens.

`Stage` has everything running (end-to-end tests use it too), `Fleet` is a service's instances with the servers
behind them, `Churn` changes them at random, `truth` compares HAProxy with Consul independently of hapsync, `Story`
tells the demo's scenes and `Screen` prints them.
"""
