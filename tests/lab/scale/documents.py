"""The report in the project's documents: for who sets up a fleet, and for who wants to know how good the model is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.report import BEGIN, END, DocumentError, placed
from tests.lab.scale.costs import all_costs
from tests.lab.scale.plot import plot
from tests.lab.scale.report import Record, line, load_table, model_report


def documents(document: Path, records: Sequence[Record]) -> Mapping[Path, str]:
    """What is to stand in each file, by its path; `DocumentError` where one of the two documents takes none.

    The points go along, so that whoever has the documents can make their figures again.
    """
    folder = document.with_suffix("")
    costs = all_costs([record.point for record in records])
    return {
        document: _with(document, load_table(records) + "\n"),
        (model := folder.with_name(f"{folder.name}-model.md")): _with(model, model_report(records)),
        folder / "points.jsonl": "".join(f"{line(record)}\n" for record in records),
        folder / "load.svg": plot(costs),
    }


def put_into(document: Path, records: Sequence[Record]) -> None:
    """Write them; `DocumentError`."""
    for path, text in documents(document, records).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _with(document: Path, figures: str) -> str:
    try:
        return placed(document.read_text(encoding="utf-8"), figures)
    except OSError as error:
        raise DocumentError(f"{document}: {error.strerror}; it must be there, with {BEGIN} and {END}") from error
    except DocumentError as error:
        raise DocumentError(f"{document}: {error}") from error
