"""The template is the operator's haproxy.cfg with our server lines in it; nothing of Consul's can leave a comment."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from hapsync.agent.settings import free_slots
from hapsync.config.schema import BackendConfig, Config, Template
from hapsync.errors import ConfigError
from hapsync.haproxy.cfg import is_sealed, observed_from_file, sealed, skeleton
from hapsync.haproxy.render import labels_of, render
from hapsync.model.server import NO_LOAD, PLACEHOLDER, Address, AdminState, Backend, CheckStatus, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.simulate import FREE_SLOT
from hapsync.plan.target import TargetState
from tests.harness.tools import haproxy_path

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
CONFIG = Config(backends={"web": BackendConfig(service="web", server_options="check inter  2s")})
TEMPLATE = """\
# {{ 'plain' }} text
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend public
    bind 127.0.0.1:8080
    default_backend web
backend web
    balance leastconn
    {{ servers("web") }}
    retries 3
"""
HOSTILE = [
    "\n    server evil 10.6.6.6:80",
    "\r\nglobal\n",
    "\\",
    "\\\n",
    '"',
    "'",
    '" # "',
    "#",
    "${HOME}",
    "$(id)",
    "`id`",
    "{{ servers('web') }}",
    "{% raw %}",
    "{# comment",
    "\0",
    "\x1b[2J",
    "\x85",
    "\u2028backend evil",
    "\x0b",
    "\ud800",
    "\U0001f600" * 300,
    "<<",
    ";",
    "é" * 300,
    " ",
    "",
]


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 8080)


def slot(name: int, address: Address, admin: AdminState = READY, weight: int = 1) -> Server:
    return Server(f"srv{name}", address, admin, weight, is_up=admin is READY, load=NO_LOAD)


def free(name: int) -> Server:
    return attrs.evolve(FREE_SLOT, name=f"srv{name}")


def target(*slots: Server) -> TargetState:
    return TargetState({"web": Backend("web", slots)})


def rendered(
    text: str, of: TargetState, config: Config = CONFIG, labels: Mapping[tuple[str, Address], str] = {}
) -> str:
    return render(Template("web.j2", text), of, config, labels)


def problems(text: str, of: TargetState | None = None, config: Config = CONFIG) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        rendered(text, of if of is not None else target(free(1)), config)

    assert caught.value.where == "web.j2"
    return list(caught.value.problems)


def check(work: Path, text: str) -> str:
    """Return what HAProxy says of the configuration `text`; nothing when it accepts it without a warning."""
    path = work / "haproxy.cfg"
    path.write_text(text)
    done = subprocess.run([haproxy_path(), "-c", "-f", path], capture_output=True, text=True, check=False, timeout=30)
    return "" if (done.returncode, done.stdout) == (0, "Configuration file is valid\n") else done.stdout + done.stderr


def test_server_lines_stand_where_the_template_says() -> None:
    text = rendered(
        TEMPLATE,
        target(
            slot(1, at(1), weight=256), slot(2, Address("2001:db8::1", 80), DRAIN, 0), slot(3, at(3), MAINT), free(4)
        ),
        labels={("web", at(1)): 'node "n1" service id "web-1"'},
    )

    assert text == sealed(
        TEMPLATE.replace("{{ 'plain' }}", "plain").replace(
            '{{ servers("web") }}',
            """\
server srv1 10.0.0.1:8080 weight 256 check inter 2s  # node "n1" service id "web-1"
    server srv2 [2001:db8::1]:80 weight 0 check inter 2s disabled  # not in the catalog
    server srv3 10.0.0.3:8080 weight 1 check inter 2s disabled  # not in the catalog
    server srv4 127.0.0.1:1 weight 1 check inter 2s disabled  # free""",
        )
    )


def test_what_is_rendered_is_known_as_ours_and_unchanged() -> None:
    text = rendered(TEMPLATE, target(slot(1, at(1))))

    assert is_sealed(text)
    assert not is_sealed(text.replace("retries 3", "retries 4"))


def test_haproxy_accepts_what_is_rendered(work: Path) -> None:
    text = rendered(TEMPLATE, target(slot(1, at(1)), slot(2, Address("2001:db8::1", 80), DRAIN), free(3)))

    assert check(work, text) == ""


def test_equal_input_gives_equal_bytes() -> None:
    backends = {name: BackendConfig(service=name) for name in ("web", "api")}
    template = 'backend api\n{{ servers("api") }}\nbackend web\n{{ servers("web") }}\n'
    labels = {("web", at(1)): "one", ("api", at(2)): "two"}
    both = {"web": Backend("web", (slot(1, at(1)),)), "api": Backend("api", (slot(1, at(2)),))}
    one = rendered(template, TargetState(both), Config(backends=backends), labels)
    other = rendered(
        template,
        TargetState(dict(reversed(both.items()))),
        Config(backends=dict(reversed(backends.items()))),
        dict(reversed(labels.items())),
    )

    assert one.encode() == other.encode()


def test_servers_may_stand_in_a_listen_a_condition_or_a_loop() -> None:
    lines = '{% for name in ["web"] if true %}{% if name %}{{ servers(name) }}{% endif %}{% endfor %}'

    assert "server srv1" in rendered(f"listen web\n    bind :80\n    {lines}\n", target(free(1)))


def test_a_slot_without_an_address_points_where_nobody_listens() -> None:
    line = rendered(TEMPLATE, target(attrs.evolve(free(1), address=None)))

    assert f"server srv1 {PLACEHOLDER} weight 1 check inter 2s disabled  # free\n" in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("backend web\n", 'backends.web has no {{ servers("web") }} in the template'),
        (TEMPLATE + '    {{ servers("web") }}\n', '{{ servers("web") }} stands 2 times in the template'),
        *(
            (text, '{{ servers("web") }} does not stand under `backend web` (or `listen web`)')
            for text in (
                '{{ servers("web") }}\n',
                'backend api\n    {{ servers("web") }}\n',
                'frontend web\n    {{ servers("web") }}\n',
                'backend web\ndefaults\n    {{ servers("web") }}\n',
                'backend web\n    server srv9 10.0.0.9:80\n    {{ servers("web") }}\n',
            )
        ),
        ('{{ servers("api") }}\n', 'line 1: servers("api"): hapsync.toml has no such backend; it has web'),
        ('\n{{ servers("we\\nb") }}\n', 'line 2: servers("we\\nb"): hapsync.toml has no such backend; it has web'),
        ("\n\n{{ server }}\n", "line 3: 'server' is undefined"),
        ("\n{% if nothing %}{% endif %}\n", "line 2: 'nothing' is undefined"),
        ("a\n{{ servers.web.port }}\n", "line 2: 'function object' has no attribute 'web'"),
        ("\n{{ 1 / 0 }}", "line 2: division by zero"),
        ("\n\n{% if %}\n", "line 3: Expected an expression, got 'end of statement block'"),
        ("\n{{ servers('web' }}\n", "line 2: unexpected '}', expected ')'"),
        ("{% for x in y %}\n", "line 1: Unexpected end of template"),
    ],
)
def test_a_mistake_in_the_template_is_said_with_its_place(text: str, problem: str) -> None:
    (found,) = problems(text)

    assert found.startswith(problem)


@pytest.mark.parametrize(
    "text",
    [
        "{{ servers() }}",
        "{{ servers(5) }}",
        "{{ servers(['web']) }}",
        "{{ servers('web', 'api') }}",
        "{{ servers('web') | nosuch }}",
        "{% include 'other' %}",
        "{% extends 'other' %}",
        "{{ 'a' + 1 }}",
        "{{ 'x'.nosuch() }}",
        "{{ [][5].x }}",
        "{{ {}['a'] }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_whatever_is_wrong_with_a_template_is_one_problem_with_its_line(text: str) -> None:
    (found,) = problems(f"\n{text}\n")

    assert found.startswith("line 2: ")


@pytest.mark.parametrize("text", ["{% include 'other' %}", "{% extends 'other' %}", "{% import 'other' as it %}"])
def test_a_template_that_wants_another_file_is_told_that_there_is_none(text: str) -> None:
    assert problems(text) == ['line 1: "other" cannot be read: the template is one file; put the text into it']


def test_all_backends_that_a_template_lacks_are_said_at_once() -> None:
    config = Config(backends={name: BackendConfig(service=name) for name in ("b", "a", "web")})

    assert problems(TEMPLATE, config=config) == [
        'backends.a has no {{ servers("a") }} in the template',
        'backends.b has no {{ servers("b") }} in the template',
    ]


def test_a_label_is_the_node_and_the_service_id_escaped() -> None:
    one = DesiredServer(at(1), READY, 1, "n\n1", 'web"1', CheckStatus.PASSING)

    assert labels_of(Desired({"web": DesiredBackend("web", 1, (one,))}), None, ["web"]) == {
        ("web", at(1)): 'node "n\\n1" service id "web\\"1"'
    }


def test_a_backend_that_was_not_read_keeps_its_comments() -> None:
    current = (
        'backend web\n    server srv1 10.0.0.1:8080 weight 1  # node "n1" # x\n'
        "backend api\n    server srv1 10.0.0.2:8080  # old\n    server srv2 10.0.0.3:8080  # gone\n"
    )
    new = DesiredServer(at(2), READY, 1, "n2", "api-2", CheckStatus.PASSING)
    desired = Desired({"api": DesiredBackend("api", 1, (new,))})

    assert labels_of(desired, current, ["web", "api"]) == {
        ("web", at(1)): 'node "n1" # x',
        ("api", at(2)): 'node "n2" service id "api-2"',
    }


def test_no_node_or_id_can_end_its_comment_or_its_line(work: Path) -> None:
    servers = tuple(
        DesiredServer(at(number), READY, 1, name, name, CheckStatus.PASSING) for number, name in enumerate(HOSTILE, 1)
    )
    desired = Desired({"web": DesiredBackend("web", len(servers), servers)})
    meant = target(*(slot(number, server.address) for number, server in enumerate(servers, 1)))
    text = rendered(TEMPLATE, meant, labels=labels_of(desired, None, ["web"]))

    assert len(text.splitlines()) == len(sealed(TEMPLATE).splitlines()) + len(HOSTILE) - 1
    assert text.isascii()
    assert observed_from_file(text, ("web",)).backends["web"].slots == meant.backends["web"].slots
    assert check(work, text) == ""
    assert labels_of(Desired({}), text, ["web"]) == labels_of(desired, None, ["web"])


def test_files_of_one_template_and_options_have_one_skeleton_whatever_their_slots_hold() -> None:
    labels = {("web", at(1)): 'node "n # disabled" service id "  # x weight 5"'}
    pictures = (
        target(free(1)),
        target(slot(1, at(1), weight=256), slot(2, at(2), MAINT), slot(3, Address("2001:db8::1", 80), DRAIN, 0)),
        target(slot(10, at(1)), free(11)),
    )

    assert len({skeleton(rendered(TEMPLATE, one, labels=labels)) for one in pictures}) == 1
    for options in ("", "check"):
        config = Config(backends={"web": BackendConfig(service="web", server_options=options)})

        assert len({skeleton(rendered(TEMPLATE, one, config, labels)) for one in pictures}) == 1


def test_a_file_of_another_template_or_other_options_has_another_skeleton() -> None:
    other = Config(backends={"web": BackendConfig(service="web", server_options="check inter 3s")})
    more = TEMPLATE.replace("    retries 3", "    server sorry 10.0.0.9:80 backup\n    retries 3")
    texts = (
        rendered(TEMPLATE, target(free(1))),
        rendered(TEMPLATE, target(free(1)), other),
        rendered(TEMPLATE.replace("retries 3", "retries 4"), target(free(1))),
        rendered(TEMPLATE.replace("    retries 3\n", ""), target(free(1))),
        rendered(more, target(free(1))),
        rendered(more.replace("sorry 10.0.0.9", "sorry 10.0.0.8"), target(free(1))),
    )

    assert len({skeleton(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "line",
    ['# {{ servers("web") }}', '{{ servers("web") }} ssl', 'option x {{ servers("web") }}', '{{ servers("web") }}#'],
)
def test_servers_that_share_their_line_are_a_problem_for_the_rest_of_it_would_be_lost(line: str) -> None:
    with pytest.raises(ConfigError, match="does not stand alone on its line"):
        render(Template("t", f"backend web\n    {line}\n"), free_slots(CONFIG), CONFIG, {})


@pytest.mark.parametrize("chance", ["{{ lipsum() }}", "{{ [1, 2] | random }}"])
def test_a_template_holds_nothing_by_chance(chance: str) -> None:
    with pytest.raises(ConfigError):
        render(
            Template("t", f"backend web\n    {{{{ servers('web') }}}}\n    # {chance}\n"),
            free_slots(CONFIG),
            CONFIG,
            {},
        )


ODD_LINES = """\
    log stderr format raw local0
    log-format "%ci:%cp {%[ssl_c_verify],%{+Q}[ssl_c_s_dn]} {%hs|%hr}"
    http-request deny if { path_reg "^/{#" }
"""


def test_what_haproxy_writes_in_braces_reaches_it_as_it_stands(work: Path) -> None:
    text = TEMPLATE.replace("frontend public\n", f"frontend public\n{ODD_LINES}") + "# {# closed #}\n"
    found = rendered(text, target(slot(1, at(1))))

    assert ODD_LINES in found
    assert "closed" not in found
    assert check(work, found) == ""


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("{%[src]}", "{%[src]}"),
        ("{%ci:%cp}", "{%ci:%cp}"),
        ("{%if 1%}a{%endif%}", "a"),
        ("b {%- if 1 -%} a {%+ endif %}", "ba "),
        ("{% if '%}' == '%}' %}{%[src]}{% endif %}", "{%[src]}"),
        ("{{ '{%[src]}' }}", "{%[src]}"),
        ('{{ "}}" }}{%[src]}', "}}{%[src]}"),
        ("{% raw %}{{ {% {# {%[src]} {% endraw %}", "{{ {% {# {%[src]} "),
        ("{# a {%[src]} b #}c", "c"),
        ("{# a\n b #}{# c #}d", "d"),
        ("{# a {# b #}c", "c"),
        ("{# none\n{# one #}a", "{# none\na"),
    ],
)
def test_only_what_jinja2_knows_is_a_tag_or_a_comment(text: str, becomes: str) -> None:
    found = rendered(f"# {text}|\n{TEMPLATE}", target(slot(1, at(1))))
    assert f"\n# {becomes}|\n" in found


@pytest.mark.parametrize("text", ["{% fro x in y %}", "{% if 1", "{{ servers('web')", "{% raw %} x"])
def test_a_tag_that_is_meant_and_wrong_is_said_with_what_to_do(text: str) -> None:
    assert any("{% raw %}" in one for one in problems(f"{text}\n{TEMPLATE}"))
