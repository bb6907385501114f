"""The state of runs as a table that fits a terminal of 100 columns."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lm_jax.reports.text_table import text_table
from lm_jax.telemetry.run_status import RunStatus

_WIDTH = 100
_NARROWEST = 8  # of the names
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class _Column(NamedTuple):
    title: str
    cell: Callable[[RunStatus], str]


def status_lines(statuses: Sequence[RunStatus]) -> list[str]:
    """Returns the table, a line for each run with a remark, and the room left on each disk."""
    folder = _common_folder([status.name for status in statuses])
    rest = [[column.title, *map(column.cell, statuses)] for column in _COLUMNS]
    rest = [cells for cells in rest if any(cells[1:])]
    taken = sum(2 + max(map(len, cells)) for cells in rest)
    room = max(_WIDTH - taken, _NARROWEST)
    names = _names([_printable(status.name[len(folder) :]) for status in statuses], room)
    sides = "<<" + ">" * (len(rest) - 1)
    lines = text_table(list(zip(["run", *names], *rest, strict=True)), sides)
    remarks = [
        _cut_end(f"{name}: {_printable(status.remark)}")
        for name, status in zip(names, statuses, strict=True)
        if status.remark
    ]
    above = [_cut_end(f"in {folder}")] if folder else []
    return [*above, *lines, *remarks, *_disks(statuses)]


def _common_folder(names: Sequence[str]) -> str:
    """Returns the folder, with a slash at its end, that all names begin with; "" if none."""
    if len(names) < 2:
        return ""
    common = os.path.commonprefix(list(names))
    return common[: common.rfind("/") + 1]


def _names(names: Sequence[str], width: int) -> list[str]:
    """Cuts names that are too long: what all begin with, then the middle of each."""
    common = len(os.path.commonprefix(list(names))) if len(names) > 1 else 0
    if max(map(len, names)) > width and common > 1:
        names = [f"…{name[common:]}" for name in names]
    return [_cut_middle(name, width) for name in names]


def _disks(statuses: Sequence[RunStatus]) -> list[str]:
    """Returns a line for each amount of room: runs of one file system report the same."""
    seen: dict[int, int] = {}
    for status in statuses:
        if status.free_bytes is not None:
            gigabytes = round(status.free_bytes / 1e8)  # they are not read at the same moment
            seen.setdefault(gigabytes, status.free_bytes)
    rooms = ", ".join(f"{free / 1e9:,.1f} GB" for free in seen.values())
    return [_cut_end(f"left on disk: {rooms}")] if rooms else []


def _cut_middle(text: str, width: int) -> str:
    """Cuts the middle: runs of a sweep differ in the beginning and in the end."""
    if len(text) <= width:
        return text
    end = width * 2 // 3
    return f"{text[: width - end - 1]}…{text[-end:]}"


def _cut_end(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _short(value: float) -> str:
    """Returns a count with three significant digits: 950, 12.3k, 4.56M."""
    for size, letter in _UNITS:
        if value >= size * 0.9995:
            return f"{value / size:#.3g}".rstrip(".") + letter
    return f"{value:.0f}"


def _steps(status: RunStatus) -> str:
    if status.state == "waiting":
        return ""
    whole = "?" if status.num_steps is None else _step(status.num_steps)
    return f"{_step(status.step)}/{whole}"


def _step(step: int) -> str:
    return f"{step:,}" if step < 10_000 else _short(step)


def _percent(status: RunStatus) -> str:
    if status.state == "waiting" or not status.num_steps:
        return ""
    return f"{int(100 * min(status.step / status.num_steps, 1))}%"  # 100% is the end alone


def _loss(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1e}"


def _time(seconds: float | None) -> str:
    """Returns a duration in few characters: 45s, 12m, 3.5h, 2.1d."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f}s"
    if seconds < 5400:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f}d"


_COLUMNS = (
    _Column("state", lambda status: status.state),
    _Column("step", _steps),
    _Column("done", _percent),
    _Column("train", lambda status: _loss(status.training_loss)),
    _Column("valid", lambda status: _loss(status.validation_loss)),
    _Column("rate/s", lambda s: "" if s.per_second is None else _short(s.per_second)),
    _Column("left", lambda status: _time(status.seconds_left)),
    _Column("again", lambda status: str(status.restarts or "")),
    _Column("skips", lambda status: str(status.skipped_updates or "")),
    _Column("goodput", lambda s: "" if s.goodput is None else f"{s.goodput:.0%}"),
    _Column("row", lambda status: _time(status.row_age_seconds)),
)
