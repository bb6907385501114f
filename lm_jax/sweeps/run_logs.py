"""The logs of a sweep's runs: where an attempt begins, and what its error was."""

import os
from pathlib import Path

START = "--- begins: "  # a log line: whatever precedes it belongs to an earlier attempt
ERROR = "error: "  # begins the line that a failing program prints
_MOST_BYTES = 1 << 20  # that are read from the end


def last_error(log: Path) -> str:
    """Returns the error of the last attempt at a run; "" if it did not fail."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _MOST_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.rpartition(START)[2].splitlines()
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return errors[-1] if errors else ""
