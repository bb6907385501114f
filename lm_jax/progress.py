"""A progress bar for work in tasks: live on a terminal, a line now and then in a log file."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_SECONDS_BEFORE = 2.0  # shorter work shows nothing
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_MOVES = 0.1

# (what is being done, tasks that are done, all tasks) -> None
Show = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Shows progress on stderr while the block calls what it is given, cheap for small tasks."""
    started = time.monotonic()
    ready = started + _SECONDS_BEFORE  # when to show a state
    display: tuple[Show, float] | None = None
    with contextlib.ExitStack() as stack:

        def show(name: str, done: int, total: int) -> None:
            nonlocal ready, display
            now = time.monotonic()
            if now < ready:
                return
            display = display or _display(stack)
            move, seconds = display
            if now < started + seconds:  # a log file need not know of work that is soon over
                ready = started + seconds
                return
            move(name, done, total)
            ready = now + seconds

        yield show


def shown(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """Yields items while a bar shows how many of them were taken."""
    with progress() as show:
        for number, item in enumerate(items):
            show(name, number, total)
            yield item


def _display(stack: contextlib.ExitStack) -> tuple[Show, float]:
    """Returns what shows a state, until the stack is left, and the seconds between two states."""
    # They take a while to import, and most work is over before.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return _line, _SECONDS_BETWEEN_LINES
    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    # Where the work has ended, so has what the bar has to say.
    bar = stack.enter_context(Progress(*columns, console=console, transient=True))
    task = bar.add_task("", total=1)

    def move(name: str, done: int, total: int) -> None:
        bar.update(task, description=name, completed=done, total=total)

    return move, _SECONDS_BETWEEN_MOVES


def _line(name: str, done: int, total: int) -> None:
    print(f"{done:,}/{total:,}: {name}", file=sys.stderr, flush=True)
