"""Scans HAProxy for what `add server` does and no reply shows, and keeps what it found; ends with 1 at any news."""

import argparse
import subprocess
import sys

from rich.console import Console

from tests.harness.tools import ROOT
from tests.scan.record import VERSIONS, lacking, news, read, with_version, write
from tests.scan.scanning import scan, version_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--keep", action="store_true", help="write what was found to the record and docs/versions.md")
    asked = parser.parse_args()
    console = Console()
    record = read()
    told: list[str] = []
    for version in asked.versions:
        command = [ROOT / "tests" / "roots.sh", version]
        program = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        full = version_of(program)
        console.print(f"HAProxy {full}", markup=False)
        found = scan(program)
        told += news(record, version, found)
        record = with_version(record, version, full, found)
    for line in told:
        console.print(line, markup=False)
    if asked.keep:
        write(record)
        return 0
    told += [f"not scanned: {line}" for line in lacking(record, asked.versions)]
    console.print(f"{len(told)} news")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
