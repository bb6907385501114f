"""A progress bar for work in tasks: live on a terminal, a line now and then in a log file."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE = 2.0  # shorter work shows nothing

# (what is being done, tasks that are done, all tasks) -> None
Show = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Shows progress on stderr while the block calls what it is given."""
    console = Console(stderr=True)
    started = time.monotonic()
    if not console.is_terminal:
        last = started + _SECONDS_BEFORE - _SECONDS_BETWEEN_LINES

        def line(name: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                print(f"{done}/{total}: {name}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, visible=False)

        def move(name: str, done: int, total: int) -> None:
            shown = time.monotonic() - started >= _SECONDS_BEFORE
            bar.update(task, description=name, completed=done, total=total, visible=shown)

        yield move
