"""Counts the collectives and matrix products of a compiled program from its HLO text.

Each counts as often as it runs, while XLA's own cost analysis counts the body of a loop once.
"""

import math
import re
from collections import Counter
from functools import cache
from typing import NamedTuple

from lm_jax.errors import UserError

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collective(NamedTuple):
    """One exchange among devices."""

    kind: str  # one of KINDS
    bytes: int  # size of the whole array that is gathered, reduced, scattered or passed on
    group: int  # number of devices in a group


class Work(NamedTuple):
    """The work of one device in one run of a program."""

    collectives: Counter[Collective]  # number of runs of each
    product_flops: int  # matrix products and convolutions; a multiply-add is 2 FLOPs
    unknown_loops: int  # loops with such work whose length XLA does not know; they count once


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class _Module(NamedTuple):
    computations: dict[str, dict[str, _Instruction]]
    entry: str
    devices: int


def read_work(text: str) -> Work:
    """Returns the work of a program from `compiled.as_text()`.

    Every branch of a conditional counts as if it ran.

    Raises:
      UserError: the text is not an HLO module.
    """
    module = _parse(text)

    @cache
    def work_of(name: str) -> Work:
        collectives: Counter[Collective] = Counter()
        flops = unknown = 0
        scope = module.computations[name]
        for instruction in scope.values():
            if found := _collective(instruction, scope, module.devices):
                collectives[found] += 1
            flops += _product_flops(instruction, scope)
            for called in _called(instruction):
                inner = work_of(called)
                times = _trip_count(instruction)
                if times is None:
                    times, unknown = 1, unknown + bool(inner.collectives or inner.product_flops)
                for collective, count in inner.collectives.items():
                    collectives[collective] += times * count
                flops += times * inner.product_flops
                unknown += inner.unknown_loops
        return Work(collectives, flops, unknown)

    return work_of(module.entry)


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")


def _parse(text: str) -> _Module:
    header = text.partition("\n")[0]
    if not header.startswith("HloModule"):
        raise UserError(f"expected the text of an HLO module, not {header[:40]!r}")
    sizes = (re.search(rf"{name}=(\d+)", header) for name in ("replica_count", "num_partitions"))
    devices = math.prod(int(size[1]) for size in sizes if size)
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, scope = "", None
    for line in text.splitlines():
        if scope is None:
            if opens := _HEADER.match(line):
                scope = computations[opens[2]] = {}
                entry = opens[2] if opens[1] else entry
        elif line.startswith("}"):
            scope = None
        elif assigns := _ASSIGNMENT.match(line):
            instruction = _instruction(assigns[1], assigns[2])
            scope[instruction.name] = instruction
    if not entry:
        raise UserError("the text of the HLO module has no ENTRY computation")
    return _Module(computations, entry, devices)


def _instruction(name: str, text: str) -> _Instruction:
    """Parses `type opcode(operands), attributes`; a type in parentheses is a tuple."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opens = text.index("(", end)
    closes = _closing(text, opens)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[opens:closes]))
    return _Instruction(name, text[:end], text[end:opens].strip(), operands, text[closes + 1 :])


def _closing(text: str, opens: int) -> int:
    depth = 0
    for bracket in re.compile(r"[()]").finditer(text, opens):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            return bracket.start()
    raise UserError(f"unbalanced parentheses in the HLO text: {text[:80]!r}")


_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)"
)
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'known_trip_count\\?":\s*\{\\?"n\\?":\s*\\?"(\d+)')


def _called(instruction: _Instruction) -> list[str]:
    lists = "".join(_CALLED_LISTS.findall(instruction.attributes))
    return [*_CALLED.findall(instruction.attributes), *re.findall(r"%([\w.\-]+)", lists)]


def _trip_count(instruction: _Instruction) -> int | None:
    """Returns how often an instruction runs what it calls; None if XLA does not know."""
    if instruction.opcode != "while":
        return 1
    known = _TRIP_COUNT.search(instruction.attributes)
    return int(known[1]) if known else None


_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")


def _arrays(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the (element type, shape) of each array in a type; a dynamic size is its bound."""
    return [
        (element, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for element, sizes in _ARRAY.findall(type_)
    ]


def _bytes(type_: str) -> int:
    total = 0
    for element, shape in _arrays(type_):
        digits = re.search(r"\d+", element)  # bf16, s4, f8e4m3fn; pred has none
        bits = int(digits[0]) if digits else 8 * (element == "pred")
        total += math.ceil(math.prod(shape) * bits / 8)
    return total


def _collective(
    instruction: _Instruction, scope: dict[str, _Instruction], devices: int
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    group = _group(instruction.attributes, devices)
    size = sum(_bytes(scope[name].type) for name in instruction.operands)
    return Collective(kind, size * group if kind == "all-gather" else size, group)


def _group(attributes: str, devices: int) -> int:
    """Returns the devices per group from `replica_groups` in any of XLA's notations."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        return pairs[1].count("{")
    text = attributes.partition("replica_groups=")[2]
    if text.startswith("mesh["):  # mesh['x'=2,'y'=4] {'y'}; a part of an axis is 'y':(1)2
        mesh, _, axes = text.partition("{")
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh))
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes.partition("}")[0])
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    if iota := re.match(r"\[(\d+),(\d+)\]<=", text):  # [groups,devices per group]<=[devices]
        return int(iota[2])
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return listed[1].count(",") + 1
    return devices


def _product_flops(instruction: _Instruction, scope: dict[str, _Instruction]) -> int:
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (_arrays(scope[name].type)[0][1] for name in instruction.operands[:2])
    result = math.prod(_arrays(instruction.type)[0][1])
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = contracted[1].split(",") if contracted and contracted[1] else []
        return 2 * result * math.prod(left[int(axis)] for axis in axes)
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    outputs = right[labels[1].index("o")] if labels else 1
    return 2 * result * math.prod(right) // outputs
