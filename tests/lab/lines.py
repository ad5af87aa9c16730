"""JSON lines, a record each, and files of them; what is none is named with its line."""

import json
from pathlib import Path
from typing import TypeVar

import cattrs
from cattrs.v import format_exception

T = TypeVar("T")


class LinesError(Exception):
    """A file or a line that is not what it should be; the message says which, why, and what to do."""


def line(record: object) -> str:
    """A value of attrs as a line."""
    return json.dumps(cattrs.unstructure(record))


def parsed(text: str, kind: type[T]) -> list[T]:
    """The records of lines, each of `kind`; `LinesError` names the first line that is none."""
    records = []
    for number, one in enumerate(text.splitlines(), 1):
        if not one.strip():
            continue
        try:
            records.append(cattrs.structure(json.loads(one), kind))
        except ValueError as error:
            raise LinesError(
                f"line {number} is no JSON ({error}); where the file was cut, remove that line"
            ) from error
        except cattrs.BaseValidationError as error:
            why = cattrs.transform_error(error, format_exception=_reason)[0]
            raise LinesError(
                f"line {number} is no {kind.__name__.lower()} of this lab ({why}); measure it anew"
            ) from error
    return records


def read(file: Path, kind: type[T]) -> list[T]:
    """The records of a file, one at least; `LinesError` with its name."""
    try:
        records = parsed(file.read_text(encoding="utf-8"), kind)
    except OSError as error:
        raise LinesError(f"{file}: {error.strerror}; name a file that the lab has written") from error
    except UnicodeDecodeError as error:
        raise LinesError(f"{file} is no text; name a file that the lab has written") from error
    except LinesError as error:
        raise LinesError(f"{file}: {error}") from error
    if not records:
        raise LinesError(f"{file} is empty; name a file that the lab has written")
    return records


def _reason(error: BaseException, kind: type | None) -> str:
    return str(error) if type(error) is ValueError else format_exception(error, kind)
