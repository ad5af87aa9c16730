"""Which services get a backend of their own."""

import json

import pytest
from hypothesis import given, strategies as st

from hapsync.config.schema import Config, Template, parse_config
from hapsync.consul.discovery import Listing, discover, in_doubt, members, parse_listing, with_discovered
from hapsync.errors import CatalogError, ConfigError
from hapsync.haproxy.cfg import discovered_in, sealed
from hapsync.haproxy.render import render
from hapsync.model.server import Observed
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.target import target_grown

TOML = """
[backends.web]
service = "web"

[discover.apps]
tag = "app"
prefix = "app-"
max_backends = 3
each.slots = 2
each.server_options = "check inter 1s"
"""
TEMPLATE = Template(
    "t",
    'defaults d\nbackend web\n    {{ servers("web") }}\n'
    '{% for name in backends("apps") %}\nbackend {{ name }} from d\n    {{ servers(name) }}\n{% endfor %}\n',
)
SERVICES = st.dictionaries(
    st.one_of(st.sampled_from(["a", "b", "c", "d", "e"]), st.text(max_size=6)),
    st.frozensets(st.sampled_from(["app", "other", "App"])),
    max_size=8,
)


def config() -> Config:
    return parse_config(TOML, "hapsync.toml")


def rendered(settings: Config) -> str:
    nothing = Desired({name: DesiredBackend(name, one.slots) for name, one in settings.backends.items()})
    return render(TEMPLATE, target_grown(nothing, Observed({}), ()), settings, {})


def test_a_service_with_the_tag_gets_a_backend_with_the_prefix_and_the_keys_of_the_group() -> None:
    found = discover(config(), Listing({"api": frozenset({"app", "v1"}), "db": frozenset({"v1"})}, is_whole=True))

    assert sorted(found.config.backends) == ["app-api", "web"]
    api = found.config.backends["app-api"]
    assert (api.service, api.tags, api.slots, api.server_options) == ("api", ("app",), 2, "check inter 1s")


@given(SERVICES, SERVICES)
def test_whatever_is_listed_no_backend_is_lost_and_no_more_than_so_many_are_there(
    before: dict[str, frozenset[str]], now: dict[str, frozenset[str]]
) -> None:
    first = discover(config(), Listing(before)).config
    found = discover(first, Listing(now))

    assert set(first.backends) <= set(found.config.backends)
    assert len(found.config.backends) <= 1 + 3
    assert found.missing == {
        name for name in members(first, "apps") if "app" not in now.get(name.removeprefix("app-"), frozenset())
    }
    tagged = {name for name, tags in now.items() if "app" in tags}
    served = {name.removeprefix("app-") for name in members(found.config, "apps")}
    assert len(found.left_out) == len(tagged - served)


@given(SERVICES)
def test_what_was_discovered_is_known_again_by_the_rendered_file(services: dict[str, frozenset[str]]) -> None:
    found = discover(config(), Listing(services)).config
    text = rendered(found)

    assert discovered_in(config(), text) == set(found.backends) - {"web"}
    assert with_discovered(config(), discovered_in(config(), text)) == found


def test_a_file_that_hapsync_did_not_write_tells_nothing() -> None:
    text = "backend app-x from d\n    server srv1 127.0.0.1:1 weight 1 disabled  # free\n"

    assert discovered_in(config(), text) == frozenset()
    assert discovered_in(config(), sealed(text)) == {"app-x"}
    assert discovered_in(config(), None) == frozenset()


def test_a_backend_of_which_hapsync_has_no_server_was_not_discovered() -> None:
    assert discovered_in(config(), sealed("backend app-x from d\n    server mine 127.0.0.1:1\n")) == frozenset()


def test_the_prefix_alone_and_names_of_another_group_are_no_backends_of_it() -> None:
    assert sorted(with_discovered(config(), ["app-", "other-x", "web", "app-x"]).backends) == ["app-x", "web"]


def test_without_discover_nothing_changes() -> None:
    plain = parse_config('[backends.web]\nservice = "web"\n', "hapsync.toml")

    assert with_discovered(plain, ["app-x"]) is plain
    assert discovered_in(plain, sealed(TEMPLATE.text)) == frozenset()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[backends.app-x]\nservice = "x"\n', "discover.apps.prefix: backends.app-x begins like this"),
        (
            '[discover.more]\ntag = "t"\nprefix = "app-v2-"\n',
            "discover.more.prefix: begins like that of discover.apps",
        ),
        ('[discover.more]\ntag = "t"\nprefix = "x y"\n', "discover.more.prefix: must be 1 to 64 of"),
        ('[discover.more]\ntag = "t"\n', "discover.more.prefix: is missing"),
        ('[discover.more]\ntag = "t"\nprefix = "m-"\neach.service = "x"\n', 'each: unknown key(s): "service"'),
        ('[discover.more]\ntag = "t"\nprefix = "m-"\neach.start = "checked"\neach.server_options = ""\n', "start"),
    ],
)
def test_a_configuration_that_cannot_tell_what_is_discovered_is_refused(more: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(TOML + more, "hapsync.toml")
    assert any(said in problem for problem in refused.value.problems), refused.value.problems


def test_a_configuration_may_have_nothing_but_what_is_discovered() -> None:
    found = parse_config(TOML.partition("[discover")[2].join(["[discover", ""]), "hapsync.toml")

    assert found.backends == {}
    with pytest.raises(ConfigError):
        parse_config("[backends]\n", "hapsync.toml")


def test_a_listing_is_read_and_what_is_none_is_refused() -> None:
    body = json.dumps({"api": ["app"], "db": []}).encode()
    assert parse_listing(body, is_whole=True) == Listing(
        {"api": frozenset({"app"}), "db": frozenset()}, is_whole=True
    )
    odd = parse_listing(b'{"api": null, "db": [5], "web": "app"}', is_whole=True)
    assert odd == Listing({"api": frozenset()}, is_whole=True, unreadable=frozenset({"db", "web"}))
    for damaged in (b"", b"[]", b"null", b'{"api": ["app"]', b"\xff"):
        with pytest.raises(CatalogError):
            parse_listing(damaged, is_whole=True)


@pytest.mark.parametrize(
    ("there", "gone", "doubtful"),
    [("a", "a", ""), ("ab", "a", ""), ("ab", "ab", "ab"), ("abc", "ab", "ab"), ("abc", "c", ""), ("", "x", "")],
)
def test_more_than_half_of_a_group_and_more_than_one_are_not_given_up_by_time_alone(
    there: str, gone: str, doubtful: str
) -> None:
    full = with_discovered(config(), [f"app-{one}" for one in there])

    assert set(in_doubt(full, {f"app-{one}" for one in gone})) == {f"app-{one}" for one in doubtful}
