"""A tree of plain values in, frozen attrs classes out, strictly, or all problems, each with the path of its key.

The rule for a value is with its type, as in `Annotated[int, between(1, 5)]`; cattrs walks the tree.
"""

import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import attrs
import cattrs
from cattrs.v import transform_error

from hapsync.text import quoted

Kind = TypeVar("Kind")


@attrs.frozen
class Rule:
    """The rule for a value, and its text for messages."""

    holds: Callable[[Any], bool]
    must: str


@attrs.frozen
class Read:
    """The parser of a value of any type; `read` raises ValueError with the problem."""

    read: Callable[[object], object]


def between(low: float, high: float) -> Rule:
    """Return the rule that a number is from `low` to `high`."""
    return Rule(lambda value: low <= value <= high, f"must be from {low} to {high}")


def matching(pattern: str, must: str) -> Rule:
    """Return the rule that a whole text matches `pattern`."""
    compiled = re.compile(pattern)
    return Rule(lambda value: compiled.fullmatch(value) is not None, must)


def each(read: Callable[[str], object]) -> Read:
    """Return the parser of a list of texts, of which `read` parses each; it raises ValueError with all problems."""

    def read_all(value: object) -> tuple[object, ...]:
        found, problems = [], []
        for text in _texts(value):
            try:
                found.append(read(text))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return tuple(found)

    return Read(read_all)


def structured(tree: object, kind: type[Kind]) -> Kind | tuple[str, ...]:
    """Return `tree` as a `kind`, or its problems, each with its path, in any order."""
    try:
        return _CONVERTER.structure(tree, kind)
    except cattrs.BaseValidationError as error:
        return tuple(map(_with_path_first, transform_error(error, format_exception=_say)))


def _with_path_first(message: str) -> str:
    """Turn cattrs' `what @ $.a['b'].c` into `a.b.c: what`."""
    what, _, path = message.rpartition(" @ $")
    keys = re.sub(r"\[(['\"])(.*?)\1\](?=[.\[]|$)", lambda key: f".{dotted(key[2])}", path).lstrip(".")
    return f"{keys or 'the file'}: {what}"


def dotted(name: str) -> str:
    """Return the key `name` in the form for a path of keys: quoted if it has unusual characters."""
    return name if re.fullmatch(r"[A-Za-z0-9_:.-]+", name) else quoted(name)


def _say(error: BaseException, _type: type | None) -> str:
    match error:
        case cattrs.ForbiddenExtraKeysError():
            return "unknown key(s): " + ", ".join(_unknown(key, error.cl) for key in sorted(error.extra_fields))
        case KeyError():
            return "is missing"
        case ValueError():
            return str(error)
        case _:
            return "must be a table"


def _unknown(key: str, kind: type) -> str:
    """Return the key, with the similar key of `kind` that the operator may mean."""
    import difflib  # noqa: PLC0415  (5 ms, and only a mistake needs it)

    meant = difflib.get_close_matches(key, [field.name for field in attrs.fields(kind)], n=1)
    return f"{quoted(key)} (did you mean {meant[0]}?)" if meant else quoted(key)


def _is_a(kind: Any, form: object) -> bool:
    return typing.get_origin(kind) is form


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _one_of(value: object, choice: Any) -> object:
    words = typing.get_args(choice)
    if value not in words:
        raise ValueError("must be one of " + ", ".join(words))
    return value


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    words = {int: "a whole number", str: "a text", float: "a number", bool: "true or false"}

    def strict(value: object, kind: Any) -> object:
        # cattrs would turn 5 into '5', but hapsync does not guess at a configuration.
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value) if abs(value) < sys.maxsize else math.inf * (1 if value > 0 else -1)
        raise ValueError(f"must be {words[kind]}")

    for kind in words:
        converter.register_structure_hook(kind, strict)

    def annotated(form: Any) -> Callable[[object, object], object]:
        kind, note = typing.get_args(form)

        def structure(value: object, _type: object) -> object:
            if isinstance(note, Read):
                return note.read(value)
            parsed = converter.structure(value, kind)
            if not note.holds(parsed):
                raise ValueError(note.must)
            return parsed

        return structure

    def tables(form: Any) -> Callable[[object, object], object]:
        table: Any = types.GenericAlias(dict, typing.get_args(form))

        def structure(value: object, _type: object) -> object:
            if not isinstance(value, dict):
                raise ValueError("must hold a table for each name, for example [backends.web]")
            return converter.structure(value, table)

        return structure

    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], lambda value, _: _texts(value))
    converter.register_structure_hook_factory(lambda kind: _is_a(kind, Mapping), tables)
    converter.register_structure_hook_func(lambda kind: _is_a(kind, Literal), _one_of)
    converter.register_structure_hook_factory(lambda kind: _is_a(kind, Annotated), annotated)
    return converter


_CONVERTER = _converter()
