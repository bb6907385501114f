"""Programs as XLA writes them: what is exchanged, how often, and the products between."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lm_jax.costs.hlo import Collective, read_work
from lm_jax.errors import UserError

# A loop of five rounds, whose length XLA knows, and one all-reduce beside it. The names,
# comments in types, layouts and notations of groups are those of XLA for CPUs, GPUs and TPUs.
SCANNED = """\
HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p.0: f32[4,16], p.1: f32[16,32]) -> f32[4,32] {
  %p.0 = f32[4,16]{1,0} parameter(0)
  %p.1 = f32[16,32]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,32]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], bf16[2,32], f32[16,32])) -> (s32[], bf16[2,32], f32[16,32]) {
  %state = (s32[], bf16[2,32]{1,0:T(8,128)(2,1)}, /*index=2*/f32[16,32]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = bf16[2,32]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %x = f32[4,16]{1,0} constant({...})
  %v = f32[16,32]{1,0} get-tuple-element(%state), index=2
  %all-gather.1 = bf16[8,32]{1,0} all-gather(%w), channel_id=1, \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, use_global_device_ids=true
  %y = f32[4,32]{1,0} fusion(%x, %v), kind=kOutput, calls=%fused
  %reduce-scatter.1 = f32[1,32]{1,0} reduce-scatter(%y), channel_id=2, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %next = (s32[], bf16[2,32]{1,0}, /*index=2*/f32[16,32]{1,0}) tuple(%i, %w, %v)
}

%condition (state.1: (s32[], bf16[2,32], f32[16,32])) -> pred[] {
  %state.1 = (s32[], bf16[2,32]{1,0}, f32[16,32]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main.9_spmd (in: (s32[], bf16[2,32], f32[16,32])) -> f32[16] {
  %in = (s32[], bf16[2,32]{1,0}, f32[16,32]{1,0}) parameter(0)
  %loop = (s32[], bf16[2,32]{1,0}, /*index=2*/f32[16,32]{1,0}) while(%in), \
condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"},\
"known_init_step":{"init":"0","step":"1"}}
  %g = f32[16]{0} constant({...})
  ROOT %all-reduce.1 = f32[16]{0} all-reduce(%g), channel_id=3, \
replica_groups=mesh['data'=2,'fsdp'=4] {'data'}, to_apply=%add
}
"""


def test_what_is_in_a_loop_counts_as_often_as_it_runs():
    work = read_work(SCANNED)
    assert work.collectives == Counter(
        {
            Collective("all-gather", 8 * 32 * 2, 4): 5,
            Collective("reduce-scatter", 4 * 32 * 4, 4): 5,
            Collective("all-reduce", 16 * 4, 2): 1,
        }
    )
    assert work.product_flops == 5 * 2 * 4 * 16 * 32
    assert work.unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    work = read_work(SCANNED.replace('"known_trip_count":{"n":"5"},', ""))
    assert work.collectives[Collective("all-gather", 512, 4)] == 1
    assert work.unknown_loops == 1


def test_older_quotes_say_the_same():
    quoted = SCANNED.replace(
        '{"known_trip_count":{"n":"5"},', r'"{\"known_trip_count\":{\"n\":\"5\"},'
    )
    assert read_work(quoted) == read_work(SCANNED)


def entry(*lines):
    text = "\n".join(f"  {line}" for line in lines)
    return (
        f"HloModule jit_f, num_partitions=8\n\nENTRY %main (p: f32[16]) -> f32[16] {{\n{text}\n}}\n"
    )


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("replica_groups={}", 8),
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", 4),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("replica_groups=mesh['x'=2,'y'=4] {'y':(1)2}", 2),
        ("replica_groups=mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y'}", 4),
    ],
)
def test_groups_in_every_notation(groups, devices):
    text = entry(
        "%p = f32[16]{0} parameter(0)",
        f"ROOT %r = f32[16]{{0}} all-reduce(%p), channel_id=1, {groups}, metadata={{}}",
    )
    assert list(read_work(text).collectives) == [Collective("all-reduce", 64, devices)]


def test_what_starts_and_what_ends_is_one_collective():
    text = entry(
        "%p = f32[16]{0} parameter(0)",
        "%s = (f32[16]{0}, f32[64]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8], "
        "dimensions={0}",
        "%d = f32[64]{0} all-gather-done(%s)",
        "%c = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%p), "
        "source_target_pairs={{0,1},{1,2},{2,0}}",
        "ROOT %e = f32[16]{0} collective-permute-done(%c)",
    )
    assert read_work(text).collectives == Counter(
        {Collective("all-gather", 256, 4): 1, Collective("collective-permute", 64, 3): 1}
    )


def test_tuples_are_exchanged_whole_and_types_have_their_widths():
    text = entry(
        "%p = bf16[16]{0} parameter(0)",
        "%q = pred[3]{0} parameter(1)",
        "%f = f8e4m3fn[5]{0} parameter(2)",
        "%i = s4[6]{0} parameter(3)",
        "ROOT %a = (bf16[16]{0}, pred[3]{0}, f8e4m3fn[5]{0}, s4[6]{0}) "
        "all-to-all(%p, %q, %f, %i), replica_groups={{0,1,2,3}}",
    )
    assert list(read_work(text).collectives) == [Collective("all-to-all", 32 + 3 + 5 + 3, 4)]


def test_convolutions_are_products():
    text = entry(
        "%x = f32[2,8,8,3]{3,2,1,0} parameter(0)",
        "%k = f32[5,5,3,7]{3,2,1,0} parameter(1)",
        "ROOT %y = f32[2,4,4,7]{3,2,1,0} convolution(%x, %k), window={size=5x5}, "
        "dim_labels=b01f_01io->b01f",
    )
    assert read_work(text).product_flops == 2 * (2 * 4 * 4 * 7) * (5 * 5 * 3)


@pytest.mark.parametrize(
    ("inputs", "window"),
    [(6, "size=6 stride=5 lhs_dilate=6"), (1, "size=6 pad=5_5 rhs_reversal=1")],
)
def test_products_that_a_tpu_writes_as_convolutions_meet_no_holes(inputs, window):
    """Six products of [8, 5] and [5, 7], of one left factor or of six."""
    text = entry(
        f"%x = f32[{inputs},8,5]{{2,1,0}} parameter(0)",
        "%k = f32[6,5,7]{2,1,0} parameter(1)",
        f"ROOT %y = f32[6,8,7]{{2,1,0}} convolution(%x, %k), window={{{window}}}, "
        "dim_labels=0bf_0io->0bf",
    )
    assert read_work(text).product_flops == 6 * 2 * 8 * 5 * 7


def test_a_loop_without_a_note_runs_until_its_counter_ends():
    """As XLA writes loops for TPUs: the counter is state 0, and begins at 2."""
    text = SCANNED.replace('backend_config={"known_trip_count":{"n":"5"},', "metadata={")
    text = text.replace(
        "  ROOT %go = pred[] constant(true)",
        """\
  %end = s32[] constant(7)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %go = pred[] compare(%at, %end), direction=LT""",
    )
    assert read_work(text).unknown_loops == 1  # nothing tells where the counter begins
    text = text.replace("while(%in)", "while(%begin)").replace(
        "  %g = f32[16]",
        """\
  %first = s32[] constant(2)
  %copied = s32[] copy(%first)
  %begin = (s32[], bf16[2,32]{1,0}, f32[16,32]{1,0}) tuple(%copied, %g, %g)
  %g = f32[16]""",
    )
    work = read_work(text)
    assert work.unknown_loops == 0
    assert work.product_flops == 5 * 2 * 4 * 16 * 32


def test_other_texts_are_refused():
    with pytest.raises(UserError, match="expected the text of an HLO module, not 'module @jit"):
        read_work("module @jit_f {}")
    with pytest.raises(UserError, match="no ENTRY"):
        read_work("HloModule f\n")


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("x",), (AxisType.Auto,), devices=jax.devices()[:8])


def compiled(mesh, function, *arguments):
    """Compiled for arguments of (shape, partition)."""
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arguments
    ]
    return jax.jit(function).lower(*shapes).compile()


def test_a_sum_over_eight_devices_is_one_all_reduce_of_the_result(mesh):
    work = read_work(compiled(mesh, partial(jnp.sum, axis=0), ((64, 96), P("x"))).as_text())
    assert work.collectives == Counter({Collective("all-reduce", 96 * 4, 8): 1})


def test_a_loop_of_real_sums_counts_them_all(mesh):
    def function(x, w):
        def step(y, _):
            return jnp.tanh(y @ w), None

        return jax.lax.scan(step, x, None, length=7)[0]

    # Columns of x and rows of w are split: each product is a sum over the devices.
    built = compiled(mesh, function, ((16, 64), P(None, "x")), ((64, 64), P("x", None)))
    work = read_work(built.as_text())
    exchanged = sum(times for c, times in work.collectives.items() if c.kind == "all-reduce")
    assert exchanged % 7 == 0 and exchanged > 0
    assert work.product_flops == 7 * 2 * 16 * 64 * 64 // 8


def test_products_outside_loops_are_those_of_the_cost_analysis(mesh):
    built = compiled(mesh, jnp.matmul, ((64, 128), P("x")), ((128, 32), P()))
    work = read_work(built.as_text())
    assert work.product_flops == 2 * 8 * 128 * 32
    assert work.product_flops == built.cost_analysis()["flops"]
