"""Kernels of small programs as XLA writes them for GPUs and TPUs, with figures by hand."""

import pytest

from lm_jax.costs.hlo import Collective, read_work
from lm_jax.costs.kernels import (
    ATTENTION,
    COLLECTIVE,
    COPY,
    FUSION,
    PRODUCT,
    Kernel,
    Loop,
    Wait,
    launches,
    read_schedule,
)
from lm_jax.costs.replica_groups import first_group, pairs

GPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=16

FileNames
1 "/home/user/lm_jax/models/transformer/blocks.py"
2 "/venv/lib/python3.11/site-packages/flax/linen/linear.py"
3 "/home/user/lm_jax/training/train_step.py"

FunctionNames
1 "Block.__call__"

FileLocations
1 {file_name_id=3 function_name_id=1 line=167 end_line=167 column=25 end_column=41}
2 {file_name_id=1 function_name_id=1 line=161 end_line=161 column=25 end_column=41}
3 {file_name_id=2 function_name_id=1 line=400 end_line=400 column=25 end_column=41}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%sliced (stack: f32[12,64,32]) -> bf16[1,64,32] {
  %stack = f32[12,64,32]{2,1,0} parameter(0)
  %layer = f32[1,64,32]{2,1,0} slice(%stack), slice={[3:4], [0:64], [0:32]}
  ROOT %half = bf16[1,64,32]{2,1,0} convert(%layer), metadata={op_name="jit(step)/stack/slice" \
stack_frame_id=1}
}

%written (into: f32[5,8], row: f32[8], at: s32[]) -> f32[5,8] {
  %into = f32[5,8]{1,0} parameter(0)
  %row = f32[8]{0} parameter(1)
  %at = s32[] parameter(2)
  %as_row = f32[1,8]{1,0} bitcast(%row)
  ROOT %put = f32[5,8]{1,0} dynamic-update-slice(%into, %as_row, %at, %at)
}

%scattered (table: bf16[100,8], rows: s32[6,1], sums: bf16[6,8]) -> bf16[100,8] {
  %table = bf16[100,8]{1,0} parameter(0)
  %rows = s32[6,1]{1,0} parameter(1)
  %sums = bf16[6,8]{1,0} parameter(2)
  ROOT %add = bf16[100,8]{1,0} scatter(%table, %rows, %sums), to_apply=%sum
}

%moved (x: f32[8,4]) -> f32[4,8] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %turned = f32[4,8]{1,0} transpose(%x), dimensions={1,0}
}

%body (state: (s32[], f32[5,8], f32[8])) -> (s32[], f32[5,8], f32[8]) {
  %state = (s32[], f32[5,8]{1,0}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[5,8]{1,0} get-tuple-element(%state), index=1
  %v = f32[8]{0} get-tuple-element(%state), index=2
  %gather = ((f32[8]{0}), f32[64]{0}) all-gather-start(%v), replica_groups=[2,8]<=[16], \
dimensions={0}
  %put_row = f32[5,8]{1,0} fusion(%rows, %v, %i), kind=kLoop, calls=%written
  %gathered = f32[64]{0} all-gather-done(%gather)
  ROOT %next = (s32[], f32[5,8]{1,0}, f32[8]{0}) tuple(%i, %put_row, %v)
}

%condition (state.1: (s32[], f32[5,8], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[5,8]{1,0}, f32[8]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x: bf16[128,64], w: f32[12,64,32], q: bf16[2,16,4,8]) -> bf16[128,32] {
  %x = bf16[128,64]{1,0} parameter(0)
  %w = f32[12,64,32]{2,1,0} parameter(1)
  %q = bf16[2,16,4,8]{3,2,1,0} parameter(2)
  %k = bf16[2,24,4,8]{3,2,1,0} parameter(3)
  %in = (s32[], f32[5,8]{1,0}, f32[8]{0}) parameter(4)
  %t = bf16[100,8]{1,0} parameter(5)
  %r = s32[6,1]{1,0} parameter(6)
  %u = bf16[6,8]{1,0} parameter(7)
  %y = f32[8,4]{1,0} parameter(8)
  %w3 = bf16[1,64,32]{2,1,0} fusion(%w), kind=kLoop, calls=%sliced
  %w3.0 = bf16[64,32]{1,0} bitcast(%w3)
  %product = (bf16[128,32]{1,0}, s8[4096]{0}) custom-call(%x, %w3.0), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/jvp(Decoder)/closed_call/up" \
stack_frame_id=3}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{\
"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %fwd = (bf16[2,4,16,8]{3,1,2,0}, f32[2,4,16]{2,1,0}, u8[0]{0}) custom-call(%q, %k, %k), \
custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config": \
{"mask_type": "CAUSAL"}}
  %bwd = (bf16[2,4,16,8]{3,1,2,0}, u8[64]{0}) custom-call(%q, %k, %k), \
custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"cudnn_fmha_backend_config": \
{"mask_type": "NO_MASK"}}
  %loop = (s32[], f32[5,8]{1,0}, f32[8]{0}) while(%in), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %added = bf16[100,8]{1,0} fusion(%t, %r, %u), kind=kInput, calls=%scattered
  %turned_y = f32[4,8]{1,0} fusion(%y), kind=kInput, calls=%moved
  %c = bf16[128,64]{1,0} copy(%x)
  ROOT %out = bf16[128,32]{1,0} get-tuple-element(%product), index=0
}
"""


@pytest.fixture(scope="module")
def schedule():
    return read_schedule(GPU)


@pytest.fixture(scope="module")
def by_name(schedule):
    return {kernel.name: kernel for kernel, _ in launches(schedule)}


def test_products_of_libraries_are_counted(by_name):
    product, fwd, bwd = by_name["product"], by_name["fwd"], by_name["bwd"]
    assert product.kind == PRODUCT and product.element == "bf16"
    assert product.flops == 2 * 128 * 64 * 32
    assert product.bytes == 2 * (128 * 64 + 64 * 32 + 128 * 32)  # and no workspace
    assert product.result == "bf16[128,32]"
    scores = 2 * 4 * 16 * 24  # of 2 rows and 4 heads
    assert fwd.kind == bwd.kind == ATTENTION
    assert fwd.flops == 2 * 2 * scores * 8 // 2  # a causal mask spares half
    assert bwd.flops == 5 * 2 * scores * 8


def test_slices_are_read_and_written_alone(by_name):
    assert by_name["w3"].kind == FUSION
    assert by_name["w3"].bytes == 64 * 32 * (4 + 2)
    assert by_name["put_row"].bytes == 8 * 4 + 4 + 8 * 4  # the row, its place, the row in the table
    assert by_name["added"].bytes == 6 * 4 + 3 * (6 * 8 * 2)  # updates; rows are read and written


def test_what_only_moves_is_a_copy(by_name):
    assert by_name["turned_y"].kind == by_name["c"].kind == COPY
    assert by_name["turned_y"].bytes == 2 * 4 * 8 * 4
    assert by_name["c"].bytes == 2 * 128 * 64 * 2


def test_a_loop_holds_what_its_body_launches(schedule):
    (loop,) = (item for item in schedule if isinstance(item, Loop))
    assert loop.trips == 5
    start, put, wait = loop.body
    assert isinstance(start, Kernel) and start.kind == COLLECTIVE
    assert start.exchange.bytes == 8 * 8 * 4 and start.group == tuple(range(8))
    assert put.name == "put_row" and wait == Wait(start.starts)
    assert {kernel.name: times for kernel, times in launches(schedule)}["put_row"] == 5


def test_a_collective_that_is_started_but_runs_in_line_is_not_in_the_background():
    sync = ', backend_config={"collective_backend_config":{"is_sync":true}}'
    text = GPU.replace("dimensions={0}\n", f"dimensions={{0}}{sync}\n")
    (loop,) = (item for item in read_schedule(text) if isinstance(item, Loop))
    assert loop.body[0].kind == COLLECTIVE and loop.body[0].starts == ""


def test_kernels_name_our_line_and_not_a_librarys(by_name):
    assert by_name["product"].source == "models/transformer/blocks.py:161"
    assert by_name["product"].operation == "jvp(Decoder)/up"
    assert by_name["w3"].source == "training/train_step.py:167"  # from within the fusion
    assert by_name["c"].source == by_name["c"].operation == ""
    old = GPU.replace("stack_frame_id=3", 'source_file="/x/lm_jax/build.py" source_line=7')
    named = {kernel.name: kernel for kernel, _ in launches(read_schedule(old))}
    assert named["product"].source == "build.py:7"


TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%fused (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %conv = bf16[64,16]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

%wrapped (s: f32[8]) -> f32[2] {
  %s = f32[8]{0} parameter(0)
  ROOT %rs = f32[2]{0} reduce-scatter(%s), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}

ENTRY %main (a: bf16[64,32], b: bf16[32,16], g: f32[8]) -> bf16[64,16] {
  %a.1 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %b.1 = bf16[32,16]{1,0:T(8,128)(2,1)} parameter(1)
  %g = f32[8]{0} parameter(2)
  %fetch = (bf16[32,16]{1,0:T(8,128)(2,1)S(1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, u32[]) \
copy-start(%b.1)
  %part = ((bf16[64,32]{1,0}), bf16[1,32]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a.1), \
slice={[0:1], [0:32]}
  %joined = bf16[2,32]{1,0} custom-call(%a.1), custom_call_target="ConcatBitcast"
  %sum = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%g), calls=%wrapped
  %near = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %product = bf16[64,16]{1,0:T(8,128)(2,1)} fusion(%a.1, %near), kind=kOutput, calls=%fused, \
backend_config={"flag_configs":[],"estimated_cycles":"1234"}
  %going = ((f32[8]{0}), f32[2]{0}, u32[]) async-update(%sum), calls=%wrapped
  %summed = f32[2]{0} async-done(%going), calls=%wrapped
  ROOT %y = bf16[64,16]{1,0:T(8,128)(2,1)} bitcast(%product)
}
"""


def test_a_tpus_program_has_cycles_and_a_memory_of_its_own():
    fetch, part, add, fetched, product, added = read_schedule(TPU)
    assert fetch.kind == COPY and fetch.bytes == 32 * 16 * 2  # it is read, and written elsewhere
    assert part.kind == COPY and part.bytes == 32 * 2
    assert add.kind == COLLECTIVE and add.group == (0, 1, 2, 3) and add.exchange.bytes == 8 * 4
    assert fetched == Wait(fetch.starts) and added == Wait(add.starts)
    assert product.kind == PRODUCT and product.cycles == 1234
    assert product.flops == 2 * 64 * 32 * 16
    assert product.bytes == 2 * (64 * 32 + 64 * 16)  # the other factor is in fast memory


STEPS = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%first (g: f32[8]) -> (f32[8], f32[8]) {
  %g.1 = f32[8]{0} parameter(0)
  %sum.1 = f32[8]{0} all-reduce(%g.1), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %begun = (f32[8]{0}, f32[8]{0}) tuple(%g.1, %sum.1)
}

%beside (g: f32[8], a: bf16[64,32], b: bf16[32,16]) -> (bf16[64,16], f32[8]) {
  %g.2 = f32[8]{0} parameter(0)
  %a.2 = bf16[64,32]{1,0} parameter(1)
  %b.2 = bf16[32,16]{1,0} parameter(2)
  %conv = bf16[64,16]{1,0} convolution(%a.2, %b.2), dim_labels=bf_io->bf
  %sum.2 = f32[8]{0} all-reduce(%g.2), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %both = (bf16[64,16]{1,0}, f32[8]{0}) tuple(%conv, %sum.2)
}

%last (g: f32[8]) -> f32[8] {
  %g.3 = f32[8]{0} parameter(0)
  ROOT %sum.3 = f32[8]{0} all-reduce(%g.3), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%add
}

ENTRY %main (g: f32[8], a: bf16[64,32], b: bf16[32,16]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  %a.3 = bf16[64,32]{1,0} parameter(1)
  %b.3 = bf16[32,16]{1,0} parameter(2)
  %async-collective-start.2 = (f32[8]{0}, f32[8]{0}) fusion(%g), kind=kCustom, calls=%first
  %going = f32[8]{0} get-tuple-element(%async-collective-start.2), index=1
  %fusion.1 = (bf16[64,16]{1,0}, f32[8]{0}) fusion(%going, %a.3, %b.3), kind=kOutput, \
calls=%beside, backend_config={"estimated_cycles":"1234"}
  %gone = f32[8]{0} get-tuple-element(%fusion.1), index=1
  ROOT %async-collective-done = f32[8]{0} fusion(%gone), kind=kCustom, calls=%last
}
"""


def test_an_exchange_that_fusions_carry_out_is_one_beside_their_work():
    start, work, wait = read_schedule(STEPS)
    assert start.kind == COLLECTIVE and start.group == (0, 1, 2, 3)
    assert start.exchange == Collective("all-reduce", 32, 4)
    assert work.kind == PRODUCT and work.flops == 2 * 64 * 32 * 16 and work.cycles == 1234
    assert wait == Wait(start.starts)
    assert read_work(STEPS).collectives == {start.exchange: 1}


SPLASH = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (q: bf16[8,12,256,64], k: bf16[8,3,128,64], m: s8[1,2,2]) -> bf16[8,12,256,64] {
  %q = bf16[8,12,256,64]{3,2,1,0} parameter(0)
  %k = bf16[8,3,128,64]{3,2,1,0} parameter(1)
  %m = s8[1,2,2]{2,1,0} parameter(2)
  %splash_mha_fwd_residuals.1 = bf16[8,12,256,64]{3,2,1,0} custom-call(%m, %q, %k, %k), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(train_step)/jit(splash_attention_causal)/pallas_call" stack_frame_id=0}
  %row = bf16[12,256,64]{2,1,0} slice(%q), slice={[0:1], [0:12], [0:256], [0:64]}
  %keys = bf16[3,128,64]{2,1,0} slice(%k), slice={[0:1], [0:3], [0:128], [0:64]}
  ROOT %splash_mha_dkv_no_residuals.1 = bf16[12,256,64]{2,1,0} custom-call(%m, %row, %keys, \
%keys), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(train_step)/jit(splash_attention)/pallas_call" stack_frame_id=0}
}
"""


def test_attention_in_pallas_is_counted_and_ends_no_computation():
    forward, _, _, backward = read_schedule(SPLASH)
    product = 2 * 8 * 12 * 256 * 128 * 64
    assert (forward.kind, forward.flops) == (ATTENTION, 2 * product // 2)  # half: it is causal
    assert (backward.kind, backward.flops) == (ATTENTION, 5 * product // 8)  # of one row
    assert forward.operation.endswith("pallas_call")


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("replica_groups={}", tuple(range(8))),
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['x'=2,'y'=4] {'y':(1)2}", (0, 2)),
        ("replica_groups=mesh['x'=2,'y'=4] {'y':(2)2}", (0, 1)),
        ("replica_groups=mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y'}", (0, 2, 4, 6)),
    ],
)
def test_the_first_group_in_every_notation(groups, devices):
    assert first_group(f"channel_id=1, {groups}, metadata={{}}", 8) == devices


def test_a_permutation_has_pairs():
    assert pairs("source_target_pairs={{0,1},{1,2},{2,0}}, metadata={}") == [(0, 1), (1, 2), (2, 0)]
    assert pairs("replica_groups={{0,1}}") == []
