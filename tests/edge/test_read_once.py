"""Reading everything once: what is empty is believed only where the canary is seen."""

from pathlib import Path

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.read_once import read_catalog
from hapsync.model.catalog import Doubt
from tests.edge.fake_consul import fake_consul
from tests.harness.consul import acl_consul
from tests.harness.tools import consul_path, consul_version


def test_full_readings_need_no_canary() -> None:
    with fake_consul(1, 2) as fake:
        catalog, errors = read_catalog(ConsulConfig(address=fake.url), ("a", "b"))

        assert {name: one.doubt for name, one in catalog.readings.items()} == {"a": None, "b": None}
        assert errors == {}
        assert sorted(read.service for read in fake.reads) == ["a", "b"]
        assert {read.consistency for read in fake.reads} == {"stale"}


def test_empty_readings_are_believed_when_the_canary_is_seen_once_for_all() -> None:
    with fake_consul() as fake:
        catalog, _ = read_catalog(ConsulConfig(address=fake.url), ("a", "b"))

        assert {one.doubt for one in catalog.readings.values()} == {None}
        assert [read.consistency for read in fake.reads if read.service == "consul"] == ["stale"]


@pytest.mark.parametrize("status", [200, 500])
def test_without_the_canary_empty_readings_are_doubted_and_no_error(status: int) -> None:
    with fake_consul() as fake:
        fake.canary["stale"] = attrs.evolve(fake.canary["stale"], numbers=(), status=status)

        catalog, errors = read_catalog(ConsulConfig(address=fake.url), ("a", "b"))
        without, _ = read_catalog(ConsulConfig(address=fake.url, canary=""), ("a", "b"))

    assert {one.doubt for one in catalog.readings.values()} == {Doubt.UNCONFIRMED}
    assert errors == {}
    assert {one.doubt for one in without.readings.values()} == {None}


def test_what_speaks_against_an_answer_is_its_doubt() -> None:
    with fake_consul(1) as fake:
        fake.views["stale"].headers = {"X-Consul-KnownLeader": "false"}

        catalog, _ = read_catalog(ConsulConfig(address=fake.url), ("a",))

    assert catalog.readings["a"].doubt is Doubt.NO_LEADER


def test_a_token_without_rights_sees_nothing_that_counts(work: Path) -> None:
    with acl_consul(work) as consul:
        consul.set_policy("nothing", "")
        consul.put("web", "w1", node="n1", address="10.0.0.1", port=1)
        config = ConsulConfig(address=consul.url, token=consul.token("nothing"))

        catalog, errors = read_catalog(config, ("web",))

    # Consul says of a plain answer that rights have filtered it, from 1.11 on; before, the canary finds it out.
    says_so = consul_version(consul_path()) >= (1, 11)
    assert catalog.readings["web"].instances == ()
    assert catalog.readings["web"].doubt is (Doubt.FILTERED if says_so else Doubt.UNCONFIRMED)
    assert errors == {}
