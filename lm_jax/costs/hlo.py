"""Counts the collectives and matrix products of a compiled program from its HLO text.

Each counts as often as it runs, while XLA's own cost analysis counts the body of a loop once.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from lm_jax.costs import replica_groups
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


class Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    arguments: str  # what stands between the parentheses


class Module(NamedTuple):
    computations: dict[str, dict[str, Instruction]]
    entry: str
    devices: int


def read_work(text: str) -> Work:
    """Returns the work of a program from `compiled.as_text()`.

    Every branch of a conditional counts as if it ran.

    Raises:
      UserError: the text is not an HLO module.
    """
    module = parse(text)

    @cache
    def work_of(name: str) -> Work:
        collectives: Counter[Collective] = Counter()
        flops = unknown = 0
        scope = module.computations[name]
        for instruction in scope.values():
            if found := collective_of(instruction, scope, module.devices):
                collectives[found] += 1
            flops += product_flops(instruction, scope)
            for called in called_by(instruction):
                inner = work_of(called)
                times = trip_count(instruction, scope, module)
                if times is None:
                    times, unknown = 1, unknown + bool(inner.collectives or inner.product_flops)
                if not carries_on(instruction):
                    for collective, count in inner.collectives.items():
                        collectives[collective] += times * count
                flops += times * inner.product_flops
                unknown += inner.unknown_loops
        return Work(collectives, flops, unknown)

    return work_of(module.entry)


def step_of_exchange(instruction: Instruction) -> str:
    """Returns start or done where a TPU's fusion starts or ends an exchange; empty for others.

    Fusions in between carry the exchange on beside their own work; each names the exchange again.
    """
    found = re.match(r"async-collective-(start|done)(?:[.\d]|$)", instruction.name)
    return found[1] if found and instruction.opcode == "fusion" else ""


def carries_on(instruction: Instruction) -> bool:
    """Returns whether the exchanges inside a fusion are started by another one."""
    if instruction.opcode != "fusion" or step_of_exchange(instruction) == "start":
        return False
    return "calls=%all-reduce-scatter" not in instruction.attributes  # an exchange by itself


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
# Attributes of kernels in Pallas stand on lines of their own.
_BROKEN = re.compile(r"=\{\n(.*)\n\}")
_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")


def parse(text: str) -> Module:
    """Returns the computations of an HLO module's text. Raises UserError if it is no such text."""
    header = text.partition("\n")[0]
    if not header.startswith("HloModule"):
        raise UserError(f"expected the text of an HLO module, not {header[:40]!r}")
    sizes = (re.search(rf"{name}=(\d+)", header) for name in ("replica_count", "num_partitions"))
    devices = math.prod(int(size[1]) for size in sizes if size)
    computations: dict[str, dict[str, Instruction]] = {}
    entry, scope = "", None
    for line in _BROKEN.sub(r"={\1}", text).splitlines():
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
    return Module(computations, entry, devices)


def _instruction(name: str, text: str) -> Instruction:
    """Parses `type opcode(operands), attributes`; a type in parentheses is a tuple."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opens = text.index("(", end)
    closes = _closing(text, opens)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[opens:closes]))
    opcode, arguments = text[end:opens].strip(), text[opens + 1 : closes]
    return Instruction(name, text[:end], opcode, operands, text[closes + 1 :], arguments)


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


def called_by(instruction: Instruction) -> list[str]:
    lists = "".join(_CALLED_LISTS.findall(instruction.attributes))
    return [*_CALLED.findall(instruction.attributes), *re.findall(r"%([\w.\-]+)", lists)]


def trip_count(
    instruction: Instruction, scope: Mapping[str, Instruction], module: Module
) -> int | None:
    """Returns how often an instruction runs what it calls; None if that is not known.

    XLA notes the length of a loop, but for TPUs it does not: there the loop counts from a constant
    to the one that its condition compares with, as those of `jax.lax.scan` do.
    """
    if instruction.opcode != "while":
        return 1
    if known := _TRIP_COUNT.search(instruction.attributes):
        return int(known[1])
    condition = re.search(r"\bcondition=%([\w.\-]+)", instruction.attributes)
    return _counted(instruction, scope, module.computations[condition[1]]) if condition else None


def _counted(
    loop: Instruction, scope: Mapping[str, Instruction], condition: Mapping[str, Instruction]
) -> int | None:
    """Returns the length of a loop that adds 1 while its counter is less than a constant."""
    *_, root = condition.values()
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    counter, end = (condition[name] for name in root.operands)
    index = re.search(r"\bindex=(\d+)", counter.attributes)
    state = scope[loop.operands[0]]
    if not index or end.opcode != "constant" or state.opcode != "tuple":
        return None
    start = scope[state.operands[int(index[1])]]
    while start.opcode in ("copy", "bitcast"):
        start = scope[start.operands[0]]
    if start.opcode != "constant":
        return None
    return int(end.arguments) - int(start.arguments)


_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_ARRAY_WITH_LAYOUT = re.compile(r"\b[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)")  # a memory space in a layout


def arrays(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the (element type, shape) of each array in a type; a dynamic size is its bound."""
    return [
        (element, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for element, sizes in _ARRAY.findall(type_)
    ]


def bytes_of(type_: str) -> int:
    """Returns the bytes of all arrays of a type, wherever they lie."""
    total = 0
    for element, shape in arrays(type_):
        digits = re.search(r"\d+", element)  # bf16, s4, f8e4m3fn; pred has none
        bits = int(digits[0]) if digits else 8 * (element == "pred")
        total += math.ceil(math.prod(shape) * bits / 8)
    return total


def types_in(type_: str) -> list[str]:
    """Returns each array of a type as text, with its layout."""
    return [found[0] for found in _ARRAY_WITH_LAYOUT.finditer(type_)]


def bytes_in_memory(type_: str) -> int:
    """Returns the bytes of a type in the device's main memory, not in a TPU's fast one."""
    return sum(bytes_of(array) for array in types_in(type_) if not _ELSEWHERE.search(array))


def collective_of(
    instruction: Instruction, scope: dict[str, Instruction], devices: int
) -> Collective | None:
    """Returns the exchange that an instruction makes or starts; None for any other."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    group = _group(instruction.attributes, devices)
    size = sum(bytes_of(scope[name].type) for name in instruction.operands)
    return Collective(kind, size * group if kind == "all-gather" else size, group)


def _group(attributes: str, devices: int) -> int:
    """Returns the devices per group; of a permutation the number of messages."""
    return len(replica_groups.pairs(attributes)) or len(
        replica_groups.first_group(attributes, devices)
    )


def product_flops(instruction: Instruction, scope: dict[str, Instruction]) -> int:
    """Returns the FLOPs of a matrix product or a convolution; 0 for any other instruction."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (arrays(scope[name].type)[0][1] for name in instruction.operands[:2])
    result = math.prod(arrays(instruction.type)[0][1])
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = contracted[1].split(",") if contracted and contracted[1] else []
        return 2 * result * math.prod(left[int(axis)] for axis in axes)
    return 2 * result * math.prod(right) * _met(instruction, left) // _positions(instruction, right)


_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


def _positions(convolution: Instruction, kernel: tuple[int, ...]) -> int:
    """Returns the output features, times the pairs of an output and a kernel's position."""
    labels = _LABELS.search(convolution.attributes)
    if not labels:
        return 1
    features = kernel[labels[2].index("o")]
    outputs = _spatial(labels[3], arrays(convolution.type)[0][1])
    return features * math.prod(outputs) * math.prod(_spatial(labels[2], kernel))


def _met(convolution: Instruction, inputs: tuple[int, ...]) -> int:
    """Returns the pairs of an output and a kernel's position that meet an input.

    Others meet padding or a hole. A TPU writes a batch of products as a convolution of such pairs.
    """
    labels = _LABELS.search(convolution.attributes)
    window = re.search(r"window=\{([^}]*)\}", convolution.attributes)
    if not labels or not window:
        return 1
    given = dict(part.split("=") for part in window[1].split())
    sizes = [int(size) for size in given["size"].split("x")]
    outputs = _spatial(labels[3], arrays(convolution.type)[0][1])
    whole = 1
    for axis, (size, outs, length) in enumerate(
        zip(sizes, outputs, _spatial(labels[1], inputs), strict=True)
    ):

        def value(name: str, default: str, axis: int = axis) -> str:
            return given[name].split("x")[axis] if name in given else default

        holes = int(value("lhs_dilate", "1"))
        before = int(value("pad", "0_0").split("_")[0])
        starts = np.arange(outs)[:, None] * int(value("stride", "1"))
        places = starts + np.arange(size) * int(value("rhs_dilate", "1")) - before
        inside = (places >= 0) & (places <= (length - 1) * holes) & (places % holes == 0)
        whole *= int(inside.sum())
    return whole


def _spatial(labels: str, shape: tuple[int, ...]) -> list[int]:
    """Returns the sizes of the spatial axes, which labels name by numbers."""
    return [shape[labels.index(digit)] for digit in sorted(set(labels) - set("bfio"))]
