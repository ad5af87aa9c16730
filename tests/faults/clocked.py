"""`hapsync` with a wall clock that a file sets: `python -m tests.faults.clocked FILE ARGUMENTS...`.

FILE holds the seconds by which the wall clock is ahead; it is read each time the clock is. No other clock changes,
as when somebody sets a machine's time.
"""

import sys
import time
from pathlib import Path

from hapsync.cli import main

_real_time = time.time


def _time() -> float:
    try:
        return _real_time() + float(OFFSET.read_text(encoding="ascii"))
    except (OSError, ValueError):  # being written
        return _real_time()


if __name__ == "__main__":
    OFFSET = Path(sys.argv.pop(1))
    time.time = _time
    sys.argv[0] = "hapsync"
    main()
