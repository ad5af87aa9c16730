"""A balancer that is killed while it holds its group's reload slot; Consul takes up to twice the TTL to notice."""

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.semaphore import Permit, acquire_permit
from tests.edge.test_permit import turn
from tests.harness.consul import Consul


def test_a_killed_holder_frees_the_slot(shared_consul: Consul) -> None:
    with ConsulClient(ConsulConfig(address=shared_consul.url)) as agent:  # nobody renews it, as after SIGKILL
        assert isinstance(acquire_permit(agent, "killed", 1, "lb1"), Permit)

    heir = turn(shared_consul.url, "killed", name="lb2", acquire_timeout_seconds=90)

    assert heir.is_come.wait(100)
    assert not heir.waits_for, "it came by patience alone"
    heir.give_back()
