"""The kernels that a compiled program launches, in the order of its schedule, from its HLO text."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lm_jax.costs import hlo, replica_groups
from lm_jax.costs.hlo import Instruction, Module
from lm_jax.costs.source_lines import Sources, read_sources
from lm_jax.models.transformer.splash_attention import CALLS

PRODUCT, ATTENTION, FUSION = "matrix products", "fused attention", "fusions"
COPY, COLLECTIVE, OTHER = "copies", "collectives", "other calls"
KINDS = (PRODUCT, ATTENTION, FUSION, COPY, COLLECTIVE, OTHER)


class Kernel(NamedTuple):
    """One launch; figures are of one device."""

    name: str  # of the instruction
    kind: str  # one of KINDS
    flops: int  # of matrix products and fused attention
    bytes: int  # read from and written to the device's memory
    element: str  # element type of what a matrix product multiplies
    result: str  # element type and shape of the largest array that it writes
    operation: str  # what was traced, such as `transpose(jvp(Decoder))/stack/layers/dot_general`
    source: str  # file:line of the program that was traced
    cycles: int = 0  # the compiler's estimate; 0: it gives none
    exchange: hlo.Collective | None = None
    group: tuple[int, ...] = ()  # the devices of the first group of an exchange
    starts: str = ""  # of what ends later: the name by which `Wait` ends it


class Wait(NamedTuple):
    """The point at which what was started must have ended."""

    starts: str


class Loop(NamedTuple):
    """A loop, whose body runs `trips` times; 1 if XLA does not know the number."""

    body: "Schedule"
    trips: int


Schedule = list[Kernel | Wait | Loop]

_FREE = frozenset(
    """
    parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id
    opt-barrier add-dependency domain async-update
    """.split()
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast")
_MOVES = frozenset(
    """
    parameter constant get-tuple-element tuple bitcast copy transpose reshape slice dynamic-slice
    dynamic-update-slice concatenate pad broadcast reverse
    """.split()
)


def read_schedule(text: str) -> Schedule:
    """Returns what a program launches, from `compiled.as_text()` of a scheduled module.

    All branches of a conditional count as if they ran.

    Raises:
      UserError: the text is not an HLO module.
    """
    module = hlo.parse(text)
    return _read(module, module.entry, read_sources(text))


def launches(schedule: Schedule, times: int = 1) -> Iterator[tuple[Kernel, int]]:
    """Yields each kernel with the number of its launches."""
    for item in schedule:
        if isinstance(item, Loop):
            yield from launches(item.body, times * item.trips)
        elif isinstance(item, Kernel):
            yield item, times


def _read(module: Module, name: str, sources: Sources) -> Schedule:
    scope, found = module.computations[name], Schedule()
    for instruction in scope.values():
        opcode = instruction.opcode
        if opcode in _FREE or _target(instruction) in _FREE_CALLS:
            continue
        if opcode == "while":
            body = re.search(r"\bbody=%([\w.\-]+)", instruction.attributes)
            inner = _read(module, body[1], sources) if body else []
            found.append(Loop(inner, hlo.trip_count(instruction, scope, module) or 1))
        elif opcode in ("call", "conditional"):
            for called in hlo.called_by(instruction):
                found += _read(module, called, sources)
        elif opcode.endswith("-done"):
            found.append(Wait(_started(instruction, scope)))
        elif hlo.step_of_exchange(instruction) == "done":
            found.append(Wait(_channel(_exchange_in(module, instruction))))
        else:
            found.append(_kernel(module, instruction, scope, sources))
    return found


def _started(done: Instruction, scope: Mapping[str, Instruction]) -> str:
    """Returns the name of what an instruction waits for."""
    name = done.operands[0]
    while scope[name].opcode in ("async-update", "get-tuple-element", "bitcast"):
        name = scope[name].operands[0]
    return name


def _exchange_in(module: Module, fusion: Instruction) -> Instruction:
    """Returns the exchange that a fusion starts or ends."""
    return next(
        inner
        for inner in _fused(module, fusion).values()
        if inner.opcode.removesuffix("-start") in hlo.KINDS
    )


def _channel(exchange: Instruction) -> str:
    found = re.search(r"channel_id=\d+", exchange.attributes)
    return found[0] if found else exchange.name


def _kernel(
    module: Module, instruction: Instruction, scope: Mapping[str, Instruction], sources: Sources
) -> Kernel:
    # XLA for GPUs marks a collective that it starts but runs like any other kernel.
    is_sync = '"is_sync":true' in instruction.attributes
    in_background = instruction.opcode.endswith("-start") and not is_sync
    inner, inner_scope = instruction, scope
    if instruction.opcode == "async-start":  # what it runs stands in a computation of its own
        inner_scope = module.computations[hlo.called_by(instruction)[0]]
        inner = next(i for i in inner_scope.values() if i.opcode not in _FREE)
    starts = instruction.name if in_background else ""
    if hlo.step_of_exchange(instruction) == "start":
        inner_scope, inner = _fused(module, instruction), _exchange_in(module, instruction)
        starts = _channel(inner)
    exchange = hlo.collective_of(inner, dict(inner_scope), module.devices)
    group: tuple[int, ...] = ()
    if exchange:
        pairs = replica_groups.pairs(inner.attributes)
        group = pairs[0] if pairs else replica_groups.first_group(inner.attributes, module.devices)
    products = list(_products(module, inner, inner_scope))
    cycles = re.search(r'estimated_cycles":"?(\d+)', instruction.attributes)
    operation, source = sources.of_instruction(inner, module)
    return Kernel(
        name=instruction.name,
        kind=COLLECTIVE if exchange else _kind(module, inner, bool(products)),
        flops=sum(flops for flops, _ in products),
        bytes=_traffic(module, inner, inner_scope),
        element=products[0][1] if products else "",
        result=_largest(inner),
        operation=operation,
        source=source,
        cycles=int(cycles[1]) if cycles else 0,
        exchange=exchange,
        group=group,
        starts=starts,
    )


def _kind(module: Module, instruction: Instruction, multiplies: bool) -> str:
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "custom-call":
        if "attention" in instruction.name or _is_attention(instruction):
            return ATTENTION
        return PRODUCT if multiplies else OTHER
    if multiplies:
        return PRODUCT
    if opcode == "fusion":
        opcodes = {i.opcode for i in _fused(module, instruction).values()}
        return COPY if opcodes <= _MOVES else FUSION
    return COPY if opcode in _MOVES else FUSION


def _fused(module: Module, instruction: Instruction) -> Mapping[str, Instruction]:
    return module.computations[hlo.called_by(instruction)[0]]


def _target(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def _products(
    module: Module, instruction: Instruction, scope: Mapping[str, Instruction]
) -> Iterator[tuple[int, str]]:
    """Yields the FLOPs and the operands' element type of each product of one launch."""
    opcode = instruction.opcode
    if opcode in ("dot", "convolution", "custom-call"):
        flops = (
            _custom_call_flops(instruction, scope)
            if opcode == "custom-call"
            else hlo.product_flops(instruction, dict(scope))
        )
        if flops:
            yield flops, hlo.arrays(scope[instruction.operands[0]].type)[0][0]
    elif opcode == "fusion":
        fused = _fused(module, instruction)
        for inner in fused.values():
            yield from _products(module, inner, fused)


def _is_attention(instruction: Instruction) -> bool:
    """Returns whether a library's call is cuDNN's attention, or the kernel for TPUs."""
    return "fmha" in _target(instruction) or instruction.name.startswith("splash_m")


def _custom_call_flops(instruction: Instruction, scope: Mapping[str, Instruction]) -> int:
    """Returns the FLOPs of cuBLAS's products and of fused attention; 0 for other calls.

    Attention has two products forward and five backward, one of which is the scores again. A
    causal mask halves them.
    """
    target, text = _target(instruction), instruction.attributes.partition("backend_config=")[2]
    arrays = [hlo.arrays(scope[name].type)[0] for name in instruction.operands]
    shapes = [shape for _, shape in arrays]
    if "fmha" in target:
        batch, queries, heads, width = shapes[0]
        products = 5 if "Backward" in target else 2
        flops = products * 2 * batch * heads * queries * shapes[1][1] * width
        return flops // 2 if re.search(r'mask_type": ?"\w*CAUSAL', text) else flops
    if instruction.name.startswith("splash_m"):
        # Without an axis of rows where there is one, behind integers that tell the masks.
        asking, keys, *_ = (shape for element, shape in arrays if "f" in element)
        products = 5 if "_dkv" in instruction.name else 2
        flops = products * 2 * math.prod(asking) * keys[-2]
        return flops // 2 if CALLS[True] in instruction.attributes else flops
    if "cublas" in target:
        config = json.loads(text)["gemm_backend_config"]
        contracted = config["dot_dimension_numbers"]["lhs_contracting_dimensions"]
        result = math.prod(hlo.arrays(instruction.type)[0][1])
        return 2 * result * math.prod(shapes[0][int(axis)] for axis in contracted)
    return 0


def _traffic(module: Module, instruction: Instruction, scope: Mapping[str, Instruction]) -> int:
    """Returns the bytes that a launch reads and writes.

    They are its operands and results. An operand that a fusion only takes slices from counts as
    these slices, and a result that is an operand with a slice overwritten as that slice.
    """
    operands = list(dict.fromkeys(instruction.operands))
    written = _written(instruction)
    if instruction.opcode != "fusion":
        if instruction.opcode in ("slice", "dynamic-slice", "gather"):
            return 2 * written
        if instruction.opcode == "dynamic-update-slice":
            return 2 * hlo.bytes_in_memory(scope[instruction.operands[1]].type)
        if instruction.opcode in ("copy-start", "slice-start", "dynamic-slice-start"):
            return _moved(instruction, scope)
        return written + sum(hlo.bytes_in_memory(scope[name].type) for name in operands)
    fused = _fused(module, instruction)
    overwritten, kept = _overwritten(fused)
    users: dict[str, list[Instruction]] = {}
    for inner in fused.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    read = 0
    for inner in fused.values():
        if inner.opcode == "parameter" and inner.name not in overwritten:
            read += _read_of(inner, users, scope[instruction.operands[_number(inner)]])
    return read + written + kept


def _moved(started: Instruction, scope: Mapping[str, Instruction]) -> int:
    """Returns the bytes that a copy in the background moves out of main memory and into it."""
    results = hlo.types_in(started.type)
    if started.opcode == "copy-start":  # (where to, from where, its state)
        return sum(map(hlo.bytes_in_memory, results[:2]))
    part = results[-2]  # (from where, the slice, its state)
    from_memory = hlo.bytes_in_memory(scope[started.operands[0]].type) > 0
    return from_memory * hlo.bytes_of(part) + hlo.bytes_in_memory(part)


def _number(parameter: Instruction) -> int:
    return int(parameter.arguments)


def _written(instruction: Instruction) -> int:
    """Returns the bytes of the results, without the workspace of a library's call."""
    return sum(map(hlo.bytes_in_memory, _results(instruction)))


def _results(instruction: Instruction) -> list[str]:
    results = hlo.types_in(instruction.type)
    if instruction.opcode == "custom-call" and len(results) > 1:
        results = [r for r in results if not re.match(r"[su]8\[\d*\]", r)]
    return results


def _read_of(
    parameter: Instruction, users: Mapping[str, list[Instruction]], operand: Instruction
) -> int:
    """Returns the bytes of a fusion's operand that it reads."""
    whole = hlo.bytes_in_memory(operand.type)
    waiting, slices = list(users.get(parameter.name, ())), 0
    while waiting:
        user = waiting.pop()
        if user.opcode == "bitcast":
            waiting += users.get(user.name, ())
        elif user.opcode in ("slice", "dynamic-slice", "gather"):
            slices += hlo.bytes_of(user.type)
        else:
            return whole
    return min(whole, slices)


def _overwritten(fused: Mapping[str, Instruction]) -> tuple[set[str], int]:
    """Returns the parameters that a fusion overwrites in place, and a correction of its results.

    The correction, at most 0, is what the results have beyond what is written: the slice of a
    dynamic-update-slice, or the updates of a scatter, which are read before they are added to.
    """
    *_, root = fused.values()
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    found, correction = set(), 0
    for result in (_behind_bitcasts(result, fused) for result in results):
        if result.opcode not in ("dynamic-update-slice", "scatter"):
            continue
        into = _behind_bitcasts(fused[result.operands[0]], fused)
        if into.opcode == "parameter":
            found.add(into.name)
            is_scatter = result.opcode == "scatter"
            update = hlo.bytes_of(fused[result.operands[2 if is_scatter else 1]].type)
            correction += (1 + is_scatter) * update - hlo.bytes_of(result.type)
    return found, correction


def _behind_bitcasts(instruction: Instruction, scope: Mapping[str, Instruction]) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = scope[instruction.operands[0]]
    return instruction


def _largest(instruction: Instruction) -> str:
    """Returns the element type and shape of the largest result."""
    found = [array for result in _results(instruction) for array in hlo.arrays(result)]
    if not found:
        return ""
    element, shape = max(found, key=lambda array: math.prod(array[1]))
    return f"{element}[{','.join(map(str, shape))}]"
