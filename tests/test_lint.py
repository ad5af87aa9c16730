"""Each advice has a configuration that earns it, and one that does not."""

import pytest

from hapsync.agent.settings import free_slots
from hapsync.config.schema import BackendConfig, Config, Template
from hapsync.haproxy.lint import lint
from hapsync.haproxy.render import render
from tests.harness.tools import ROOT

GOOD = "defaults\n mode http\n option idle-close-on-response\n option redispatch 1\n retries 3\n"


def said(text: str, options: str = "check") -> list[str]:
    found = lint(GOOD + text, {"web": BackendConfig(service="web", server_options=options)})
    return [f"{one.line - GOOD.count(chr(10))} {one.where}: {one.what}" for one in found]


@pytest.mark.parametrize(
    ("bad", "good", "options", "words"),
    [
        ("global\n hard-stop-after 10s\n", "global\n hard-stop-after 30m\n", "check", "2 global: `hard-stop-after"),
        ("global\n mworker-max-reloads 1\n", "global\n mworker-max-reloads 9\n", "check", "2 global: `mworker"),
        ("global\n grace 5s\n", "global\n nbthread 2\n", "check", "2 global: `grace 5s`"),
        (
            "frontend in\n no option idle-close-on-response\n",
            "frontend in\n bind :80\n",
            "check",
            "1 frontend in: without `option idle-close-on-response`",
        ),
        (
            "listen in\n no option idle-close-on-response\n",
            "listen in\n mode tcp\n no option idle-close-on-response\n",
            "check",
            "1 listen in: without `option idle-close-on-response`",
        ),
        ("backend web\n balance static-rr\n", "backend web\n balance roundrobin\n", "check", "`balance static-rr`"),
        ("backend web\n balance source\n", "backend web\n balance leastconn\n", "check", "hash-type consistent"),
        (
            "backend web\n balance hdr(host)\n hash-type map-based\n",
            "backend other\n balance hdr(host)\n",
            "check",
            "hash-type consistent",
        ),
        (
            "backend web\n default-server inter 2s\n",
            "backend other\n default-server inter 2s\n",
            "check",
            "`default-server inter 2s`: `add server` does not heed it",
        ),
        (
            "backend web\n load-server-state-from-file global\n",
            "backend web\n load-server-state-from-file none\n",
            "check",
            "brings back old ports",
        ),
        (
            "backend web\n cookie SRV insert\n",
            "backend web\n cookie SRV insert dynamic\n dynamic-cookie-key k\n",
            "check",
            "add `dynamic`",
        ),
        (
            "backend web\n server spare 10.0.0.9:80 track web/srv1\n",
            "backend web\n server spare 10.0.0.9:80 track other/main\n",
            "check",
            "2 backend web: `server spare 10.0.0.9:80 track web/srv1`: it goes into maint with the tracked slot",
        ),
        ("backend web\n no option redispatch\n", "backend web\n", "check", "`option redispatch 1`"),
        ("backend web\n retries 0\n", "backend web\n retries 2\n", "check", "`option redispatch 1`"),
    ],
)
def test_a_line_that_costs_requests_or_safety_is_named_and_a_good_one_is_not(
    bad: str, good: str, options: str, words: str
) -> None:
    (advice,) = said(bad, options)

    assert words in advice
    assert said(good, options) == []


def test_a_consistent_hash_goes_by_the_slot_unless_it_is_told_otherwise() -> None:
    text = "backend web\n balance uri\n hash-type consistent\n"
    (advice,) = said(text)

    assert "hash-key addr-port" in advice
    assert said(text, "check hash-key addr-port") == []


def test_one_cookie_for_all_servers_is_no_cookie() -> None:
    (advice,) = said("backend web\n", "check cookie a")

    assert "cookie NAME insert dynamic" in advice


def test_sessions_that_are_cut_when_a_server_leaves_are_named() -> None:
    (advice,) = said("backend web\n", "check on-marked-down shutdown-sessions")

    assert "cuts the sessions" in advice


def test_the_words_on_sessions_that_are_cut_do_not_contradict_each_other() -> None:
    both = said("backend web\n default-server on-marked-down shutdown-sessions inter 2s\n")
    assert [one.partition("`: ")[2] for one in both] == [
        "`add server` does not heed it; put `inter 2s` into server_options",
        "it cuts the sessions of each server that leaves; take it out, unless the cut is wanted",
    ]
    (alone,) = said("backend web\n default-server on-marked-down shutdown-sessions\n")
    assert "server_options" not in alone


def test_a_weight_for_all_servers_is_named_where_servers_beside_the_slots_take_it() -> None:
    slots = " server srv1 10.0.0.1:80 weight 1\n"
    (advice,) = said(f"backend web\n default-server weight 100\n server spare 10.0.0.9:80\n{slots}")
    assert "it gives the foreign servers weight 100" in advice
    assert "server_options" not in advice
    assert said(f"backend web\n default-server weight 100\n{slots}") == []
    assert said(f"backend web\n default-server weight 100\n server spare 10.0.0.9:80 weight 1\n{slots}") == []
    assert said(f"backend web\n default-server weight 1\n server spare 10.0.0.9:80\n{slots}") == []


@pytest.mark.parametrize(
    "bad",
    [
        "backend other\n server spare 10.0.0.9:80 track web/srv1\n",
        "backend other\n server-template spare 3 10.0.0.9:80 track web/dyn-web-1-9fe450d\n",
        "backend web\n server spare 10.0.0.9:80 track srv1\n",
    ],
)
def test_a_server_that_tracks_a_slot_is_named_wherever_it_stands(bad: str) -> None:
    (advice,) = said(bad)
    assert "it goes into maint with the tracked slot" in advice
    assert said(bad.replace("srv1", "main").replace("dyn-web-1-9fe450d", "main")) == []
    assert said(bad.replace("web/", "third/").replace("backend web", "backend third")) == []


@pytest.mark.parametrize(
    ("bad", "good", "words"),
    [
        (
            "backend web\n use-server srv1 if { path /a }\n",
            "backend web\n use-server spare if { path /a }\n",
            "give those you mean a service of their own",
        ),
        (
            "frontend in\n use_backend b if { srv_is_up(web/srv1) }\n",
            "frontend in\n use_backend b if { srv_is_up(web/spare) }\n",
            "`srv_is_up(web/srv1)` asks for a slot",
        ),
        (
            "backend web\n http-response set-header X %[srv_queue(srv2)]\n",
            "backend other\n http-response set-header X %[srv_queue(srv2)]\n",
            "`srv_queue(srv2)` asks for a slot",
        ),
    ],
)
def test_what_leans_on_a_slot_by_its_name_is_named(bad: str, good: str, words: str) -> None:
    (advice,) = said(bad)
    assert words in advice
    assert said(good) == []


def test_a_certificates_name_needs_an_sni_of_its_own() -> None:
    (advice,) = said("backend web\n", "ssl verify required ca-file /ca verifyhost web.internal")
    assert "add `sni str(NAME)`" in advice
    assert said("backend web\n", "ssl verify required ca-file /ca verifyhost w sni str(w)") == []


def test_the_shipped_configuration_earns_no_advice() -> None:
    config = Config(backends={"web": BackendConfig(service="web", server_options="check inter 2s")})
    template = Template("haproxy.cfg.j2", (ROOT / "haproxy" / "haproxy.cfg.j2").read_text(encoding="utf-8"))
    text = render(template, free_slots(config), config, {})

    assert list(lint(text, config.backends)) == []


def test_a_new_worker_that_checks_seldom_is_named() -> None:
    (advice,) = said("backend web\n", "check inter 30s")

    assert "1 backend web: a new worker takes every server for up until its first check" in advice
    assert said("backend web\n", "check inter 2s") == said("backend web\n", "inter 30s") == []


def test_a_reload_without_a_master_needs_its_sockets_handed_over() -> None:
    bad = "global\n stats socket /run/a.sock level admin\n"
    good = "global\n stats socket /run/a.sock level admin expose-fd listeners\n"

    assert "expose-fd listeners" in lint(bad, {}, has_master=False)[0].what
    assert lint(bad, {}) == lint(good, {}, has_master=False) == []
