"""The target and the operator's template in, the text of haproxy.cfg out."""

import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from hapsync.config.schema import Config, Template
from hapsync.consul.discovery import members
from hapsync.errors import ConfigError
from hapsync.haproxy.cfg import comments_in, sealed, slot_names, start_disabled
from hapsync.model.server import PLACEHOLDER, Address, AdminState, Backend, Server, dynamic_id, free_weight
from hapsync.plan.desired import Desired
from hapsync.plan.target import TargetState
from hapsync.text import quoted

if TYPE_CHECKING:
    import jinja2

INDENT = "    "
_RAW_HINT = "where {{, {% or {# is HAProxy's own, write the line between {% raw %} and {% endraw %}"
_MAY_DISABLE = re.compile(r"default-server\b.*\bdisabled\b")
_MISTAKES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""The errors of Python by which a template's own expressions fail."""
_BEGIN, _END = "\x01", "\x02"
"""Marks around the lines of one `servers()` during the rendering; no file for HAProxy contains these characters."""
_ALONE = re.compile(rf"^[ \t]*{_BEGIN}[^{_END}]*{_END}[ \t]*$", re.MULTILINE)


def render(template: Template, target: TargetState, config: Config, labels: Mapping[tuple[str, Address], str]) -> str:
    """Return the text of haproxy.cfg: `template` with the server lines of `target`.

    Equal input gives equal bytes.

    Raises ConfigError when the template cannot be used: an error in it, an unknown backend, a configured backend
    without its `servers()`, or server lines within another section.
    """
    used: list[str] = []

    def marked_with(disabled: Collection[str] = ()) -> str:
        used.clear()
        return _expand(template, _servers(target, config, labels, used, disabled), _backends(config))

    marked = marked_with()
    if _MAY_DISABLE.search(marked) and (disabled := start_disabled(_unmarked(marked))):
        # The file says of each server whether it is disabled, because a `disabled` from elsewhere looks like an
        # operator's.
        marked = marked_with(disabled)
    rendered = sealed(_unmarked(marked))
    problems = [
        f'backends.{name} has no {{{{ servers("{name}") }}}} in the template'
        for name in sorted(set(config.backends) - set(used))
    ]
    problems += [
        f'{{{{ servers("{name}") }}}} stands {used.count(name)} times in the template'
        for name in sorted(set(used))
        if used.count(name) > 1
    ]
    if len(_ALONE.findall(marked)) != len(used):
        problems.append("a {{ servers() }} does not stand alone on its line")
    if not problems:
        found = slot_names(rendered)
        problems += [
            f'{{{{ servers("{name}") }}}} does not stand under `backend {name}` (or `listen {name}`)'
            for name in sorted(used)
            if found.get(name, frozenset()) != {slot.name for slot in target.backends.get(name, Backend(name)).slots}
        ]
    if problems:
        raise ConfigError(template.name, tuple(problems))
    return rendered


def _unmarked(text: str) -> str:
    return text.replace(_BEGIN, "").replace(_END, "")


@lru_cache(maxsize=2)
def _compiled(text: str) -> "jinja2.Template":
    """Return the template `text`, compiled; raises TemplateSyntaxError.

    The object is cached: each new one is a reference cycle of 13 KB, and the collector runs seldom.
    """
    import jinja2  # noqa: PLC0415  (it takes 60 ms, and most commands render nothing)

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    # Equal input gives equal bytes, so random functions are removed.
    environment.globals.pop("lipsum")
    environment.filters.pop("random")
    environment.loader = jinja2.FunctionLoader(_no_other)
    return environment.from_string(_JINJA.sub(_as_text, text))


_STRING = r""" "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' """
_TAGS = (
    "autoescape|block|call|elif|else|extends|filter|for|from|if|import|include|macro|print|raw|set|with"
    "|end(?:autoescape|block|call|filter|for|if|macro|raw|set|with)"
)
_JINJA = re.compile(
    rf"""
    \{{\{{ (?: {_STRING} | [^"'}}] | \}}(?!\}}) )* \}}\}}
    | \{{%[-+]?\s*raw\s*[-+]?%\}} .*? \{{%[-+]?\s*endraw\s*[-+]?%\}}
    | \{{%(?: [-+\s] | (?:{_TAGS})\b ) (?: {_STRING} | [^"'%] | %(?!\}}) )* %\}}
    | \{{\# (?: (?! \#\}} | \n(?:(?!\#\}})[^\n])*\{{\# ) . )* \#\}}
    | (?P<text> \{{%(?! [-+\s] | (?:{_TAGS})\b ) | \{{\# )
    """,
    re.DOTALL | re.VERBOSE,
)
"""The parts of a template for Jinja2; the rest is HAProxy's text. Log formats of HAProxy contain `{%[ssl_c_verify]}`
and `{%ci:%cp}`, and a `{#` begins no comment if another `{#`, on a later line, comes before the closing `#}`."""


def _as_text(found: re.Match[str]) -> str:
    return f"{{{{ '{found[0]}' }}}}" if found["text"] else found[0]


def _no_other(name: str) -> str:
    """Refuse the files of `include`, `import` and `extends`."""
    raise ValueError(f"{quoted(name)} cannot be read: the template is one file; put the text into it")


def _expand(template: Template, servers: Callable[[str], str], backends: Callable[[str], tuple[str, ...]]) -> str:
    import jinja2  # noqa: PLC0415  (as above)

    try:
        return _compiled(template.text).render(servers=servers, backends=backends)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(template.name, (f"line {error.lineno}: {error.message}; {_RAW_HINT}",)) from error
    except (jinja2.TemplateError, *_MISTAKES) as error:
        raise ConfigError(template.name, (f"{_line_of(error)}{error}",)) from error


def _line_of(error: BaseException) -> str:
    # Jinja2 rewrites tracebacks: the innermost `<template>` frame has the template's line.
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""


def _servers(
    target: TargetState,
    config: Config,
    labels: Mapping[tuple[str, Address], str],
    used: list[str],
    disabled: Collection[str],
) -> Callable[[str], str]:
    def servers(backend: str) -> str:
        if backend not in config.backends:
            known = ", ".join(sorted(config.backends))
            raise ValueError(f"servers({quoted(str(backend))}): hapsync.toml has no such backend; it has {known}")
        used.append(backend)
        options = config.backends[backend].server_options
        slots = target.backends.get(backend, Backend(backend)).slots
        enabled = ["enabled"] if backend in disabled else []
        lines = (_server_line(backend, slot, options, labels, enabled) for slot in slots)
        return _BEGIN + f"\n{INDENT}".join(lines) + _END

    return servers


def _backends(config: Config) -> Callable[[str], tuple[str, ...]]:
    def backends(group: str) -> tuple[str, ...]:
        if group not in config.discover:
            known = ", ".join(sorted(config.discover)) or "none"
            raise ValueError(f"backends({quoted(str(group))}): hapsync.toml has no such [discover]; it has {known}")
        return members(config, group)

    return backends


def _server_line(
    backend: str, slot: Server, options: str, labels: Mapping[tuple[str, Address], str], enabled: Sequence[str]
) -> str:
    address = slot.address or PLACEHOLDER
    number = ["id", str(dynamic_id(slot.name))] if slot.is_dynamic else []
    weight = free_weight(options) if slot.is_free and slot.weight == 1 else slot.weight
    words = ["server", slot.name, str(address), *number, "weight", str(weight), *options.split()]
    words += ["disabled"] if slot.admin is not AdminState.READY else enabled
    label = "free" if address == PLACEHOLDER else labels.get((backend, address), "not in the catalog")
    return f"{' '.join(words)}  # {label}"


def labels_of(desired: Desired, current: str | None, backends: Collection[str]) -> Mapping[tuple[str, Address], str]:
    """Return the comment of each address in `backends`: the Consul node and service id, escaped.

    A backend that is not in `desired` keeps its comments in `current`, the present file.
    """
    unknown = set(backends) - set(desired.backends)
    comments = comments_in(current or "") if unknown else {}
    kept = {place: comment for place, comment in comments.items() if place[0] in unknown}
    wanted = {
        (backend.name, server.address): f"node {quoted(server.node)} service id {quoted(server.instance_id)}"
        for backend in desired.backends.values()
        for server in backend.servers
    }
    return {**kept, **wanted}
