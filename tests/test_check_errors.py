"""Which backends a refusal of HAProxy's blames, by what each version of it printed (`tests/data/refused`)."""

from pathlib import Path

import pytest

from hapsync.haproxy.check_errors import backends_at_fault
from tests.harness.tools import ROOT

DATA = ROOT / "tests" / "data" / "refused"
VERSIONS = ("2.6", "2.8", "3.0", "3.2", "3.4")
SERVERS_ALONE = (
    *("a-protocol-no-check-speaks", "a-wrong-value", "an-unknown-word", "no-such-ca-file", "no-such-certificate"),
    *("no-such-resolvers", "no-such-resolvers-in-a-listen"),
)
MORE_THAN_SERVERS = (
    *("a-bind-beside-it", "a-default-backend-beside-it", "a-foreign-server-beside-it", "a-rule-beside-it"),
    "only-a-rule",
)
FILE = "/etc/haproxy/haproxy.cfg"


def said(version: str, name: str) -> str:
    """All that HAProxy printed of the configuration `name`."""
    parts = (DATA / f"{version}.txt").read_text().split("== ")
    return next(part.partition("\n")[2] for part in parts if part.startswith(f"{name}\n"))


def text(name: str) -> str:
    return (DATA / f"{name}.cfg").read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SERVERS_ALONE)
def test_a_refusal_of_nothing_but_servers_of_ours_leads_to_their_backend(version: str, name: str) -> None:
    [(backend, why)] = backends_at_fault(said(version, name), text(name), FILE).items()

    assert backend == "api"
    assert "srv1" in why


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MORE_THAN_SERVERS)
def test_a_refusal_of_anything_else_as_well_blames_nobody(version: str, name: str) -> None:
    assert backends_at_fault(said(version, name), text(name), FILE) == {}


@pytest.mark.parametrize("name", ["no-such-resolvers", "a-wrong-value"])
def test_each_backend_has_the_first_words_on_it(name: str) -> None:
    words = said("3.0", name)
    first, *_ = words.splitlines()
    web = first.replace("'api'", "'web'").replace("api/", "web/").replace(":16]", ":12]")

    found = backends_at_fault(words + web, text(name), FILE)

    assert sorted(found) == ["api", "web"]
    assert found["api"] in words
    assert found["web"] in web


@pytest.mark.parametrize(
    "alert",
    [
        "[ALERT] (1) : config : backend 'api', server 'srv9': unable to find required resolvers 'x'",
        "[ALERT] (1) : config : backend 'none', server 'srv1': unable to find required resolvers 'x'",
        "[ALERT] (1) : config : [haproxy.cfg:99] : 'server api/srv1' : unknown keyword 'x'.",
        "[ALERT] (1) : config : [other.cfg:16] : 'server api/srv1' : unknown keyword 'x'.",
        "[ALERT] (1) : config : 'crl-file' : unable to load /nonexistent.",
        "[ALERT] (1) : something that nobody has seen yet",
    ],
    ids=["another server", "another backend", "another line", "another file", "a word of no server", "unknown"],
)
def test_an_alert_that_cannot_be_attributed_blames_nobody(alert: str) -> None:
    words = said("3.0", "no-such-ca-file")

    assert backends_at_fault(words, text("no-such-ca-file"), FILE)
    assert backends_at_fault(f"{words}\n{alert}\n", text("no-such-ca-file"), FILE) == {}


def test_a_check_that_prints_no_alert_blames_nobody() -> None:
    assert backends_at_fault("haproxy: permission denied\n", text("a-wrong-value"), FILE) == {}


def test_every_configuration_is_covered() -> None:
    assert sorted(path.stem for path in Path(DATA).glob("*.cfg")) == sorted((*SERVERS_ALONE, *MORE_THAN_SERVERS))
