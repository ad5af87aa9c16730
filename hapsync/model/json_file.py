"""The form of hapsync's own files: JSON with a version, a checksum against damage, and a frozen value."""

import hashlib
import json
import re
from typing import TypeVar

import cattrs

from hapsync.model.server import Address

Kind = TypeVar("Kind")

_VERSION = re.compile(r"[A-Za-z0-9.]{1,20}")
_CONVERTER = cattrs.Converter(forbid_extra_keys=False, unstruct_collection_overrides={frozenset: list})
_CONVERTER.register_unstructure_hook(Address, lambda address: address._asdict())
_CONVERTER.register_structure_hook(Address, lambda tree, _: Address(str(tree["host"]), int(tree["port"])))
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    cattrs.BaseValidationError,
)
"""Errors of a damaged text on its way through JSON and cattrs."""


def to_file(value: object, version: int, key: str) -> str:
    """Return the text of a file with `value` under `key`: one line of ASCII; equal values give equal texts.

    Raises ValueError for a number that JSON does not have.
    """
    text = _canonical(_CONVERTER.unstructure(value))
    return f'{{"version": {version}, "checksum": "{_checksum(text)}", "{key}": {text}}}'


def from_file(text: str, version: int, key: str, kind: type[Kind]) -> Kind | None:
    """Return the `kind` in a `text` of `to_file`; None where the text is damaged, or of another version."""
    try:
        tree = json.loads(text)
        if tree["version"] != version or tree["checksum"] != _checksum(_canonical(tree[key])):
            return None
        return _CONVERTER.structure(tree[key], kind)
    except _DAMAGE:
        return None


def to_open_file(value: object, version: int) -> str:
    """Return the text of a file for other programs: the fields of `value`, an attrs class, without a checksum."""
    return json.dumps({"version": version, **_CONVERTER.unstructure(value)})


def from_open_file(text: str, version: int, kind: type[Kind]) -> Kind | None:
    """Return the `kind` in a `text` of `to_open_file`; None where the text is damaged or of another version."""
    try:
        tree = json.loads(text)
        return _CONVERTER.structure(tree, kind) if tree.pop("version") == version else None
    except _DAMAGE:
        return None


def other_version(text: str, version: int) -> str | None:
    """Return the version of a file's `text` if it differs from `version`; else None.

    A file of another version is not damaged: another hapsync wrote it before an upgrade or a roll-back. The result
    has only letters, digits and dots.
    """
    try:
        tree = json.loads(text)
    except _DAMAGE:
        return None
    found = tree.get("version") if isinstance(tree, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | str) or found == version:
        return None
    try:
        return found_text if _VERSION.fullmatch(found_text := str(found)) else None
    except ValueError:  # an int of thousands of digits
        return None


def _canonical(tree: object) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
