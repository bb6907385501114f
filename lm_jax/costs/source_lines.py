"""The lines of a program that made the instructions of its HLO."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from lm_jax.costs import hlo

_OURS = "lm_jax"
_CALLS = ("closed_call", "checkpoint", "while", "body")  # of an operation's path
_INSTALLED = ("site-packages", "dist-packages", "<")  # code of others, and what no file holds


class _Frame(NamedTuple):
    file: str
    line: int
    parent: int  # 0: none


class Sources(NamedTuple):
    """The stack frames of a module; empty where it has no table of them."""

    frames: dict[int, _Frame]

    def of_instruction(self, instruction: hlo.Instruction, module: hlo.Module) -> tuple[str, str]:
        """Returns what was traced and where, as `file:line`; "" for what the compiler added."""
        text = instruction.attributes
        if instruction.opcode == "fusion" and "op_name=" not in text:
            fused = module.computations[hlo.called_by(instruction)[0]]
            named = [i.attributes for i in fused.values() if "op_name=" in i.attributes]
            text = named[-1] if named else text
        name = re.search(r'op_name="([^"]*)"', text)
        return _shortened(name[1]) if name else "", self._line(text)

    def _line(self, text: str) -> str:
        if direct := re.search(r'source_file="([^"]*)" source_line=(\d+)', text):
            return f"{_relative(direct[1])}:{direct[2]}"
        found = re.search(r"stack_frame_id=(\d+)", text)
        number = int(found[1]) if found else 0
        while number in self.frames:  # from the innermost call outwards
            frame = self.frames[number]
            if _is_ours(frame.file):
                return f"{_relative(frame.file)}:{frame.line}"
            number = frame.parent if frame.parent != number else 0
        return ""


def read_sources(text: str) -> Sources:
    """Returns the tables of stack frames that stand before a module's computations."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', _table(text, "FileNames"), re.MULTILINE))
    places = {
        number: (file, int(line))
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", _table(text, "FileLocations"), re.M
        )
    }
    frames = {}
    for number, place, parent in re.findall(
        r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?",
        _table(text, "StackFrames"),
        re.MULTILINE,
    ):
        file, line = places[place]
        # The text counts parents from 1, where 1 is none.
        frames[int(number)] = _Frame(files.get(file, ""), line, int(parent or 1) - 1)
    return Sources(frames)


def _table(text: str, name: str) -> str:
    """Returns the lines below a title, up to the next empty line."""
    found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    return found[1] if found else ""


def _is_ours(file: str) -> bool:
    """Returns whether a file is of this package or of its user, not of a library."""
    return f"/{_OURS}/" in file or not any(part in file for part in _INSTALLED)


def _relative(file: str) -> str:
    """Returns a path from this package on; of other files the name."""
    parts = PurePosixPath(file).parts
    if _OURS not in parts:
        return parts[-1] if parts else ""
    last = len(parts) - 1 - parts[::-1].index(_OURS)
    return "/".join(parts[last + 1 :])


def _shortened(operation: str) -> str:
    """Returns the operation without the function that was compiled, and without repeated calls."""
    parts = operation.partition(";")[0].split("/")
    return "/".join(p for p in parts if not p.startswith("jit(") and p not in _CALLS)
