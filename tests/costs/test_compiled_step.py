"""The check of a train step before there are devices: its arithmetic, beside real arrays."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from lm_jax import data
from lm_jax.build import build_experiment, training_batches
from lm_jax.costs.accelerators import ACCELERATORS, USABLE, accelerator
from lm_jax.costs.collectives import (
    by_kind,
    planned_by_kind,
    planned_collectives,
    ring_bytes,
    seconds,
)
from lm_jax.costs.compiled_step import (
    DeviceMemory,
    batch_shapes,
    bytes_per_device,
    compile_step,
    fits,
    resident_bytes,
)
from lm_jax.data import ImageConfig, ParallelTextConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models.dense_classifier import DenseClassifierConfig
from lm_jax.models.family import Family, PlannedCollective
from lm_jax.models.mlp import MLPConfig, mlp
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.models.transformer.planned_activations import planned_activations
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.training.state import abstract_state, init_state
from tests.experiments import tiny
from tests.launch.programs import launch

VOCABULARY = 512


def program_on(mesh, **fields):
    fields = {"model__num_layers": 2} | fields
    config = tiny(mesh=mesh, compute_dtype="float32", **fields)
    config.model.scan_layers = True
    return build_experiment(config, {"vocab_size": VOCABULARY}, jax.devices()[:8])


def on_first_device(tree):
    """The bytes of arrays that really lie on the first device."""
    return sum(
        jax.random.key_data(leaf).nbytes
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else sum(s.data.nbytes for s in leaf.addressable_shards if s.device == jax.devices()[0])
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize(
    ("mesh", "optimizer"),
    [
        ("data:8", "adamw"),
        ("fsdp:8", "adafactor"),
        ("data:2,fsdp:2,tensor:2", "adamw"),
    ],
    ids=str,
)
def test_memory_by_arithmetic_is_that_of_arrays_really_split(mesh, optimizer):
    built = program_on(mesh, optimizer__name=optimizer)
    arguments = built.model, built.optimizer, built.example, built.mesh
    real = init_state(*arguments, seed=0)
    abstract = abstract_state(*arguments)
    for part in ("params", "opt_state"):
        expected = on_first_device(getattr(real, part))
        assert bytes_per_device(getattr(abstract, part)) == expected, part
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(real.params))
    assert (on_first_device(real.params) == whole) == (mesh == "data:8")


def test_the_compiler_holds_what_arithmetic_says():
    built = program_on("fsdp:4,tensor:2")
    memory = compile_step(built).memory
    assert resident_bytes(built) == memory[:4]
    state = memory.parameters + memory.optimizer_state + memory.batch
    assert memory.optimizer_state == pytest.approx(2 * memory.parameters, abs=64)
    # The step is an argument too; what the step does not read (the key, positions) is none.
    unread = bytes_per_device(batch_shapes_on(built)["positions"]) + 8
    assert state - unread <= memory.arguments <= state + 64
    assert memory.total >= memory.arguments + memory.temporaries
    assert memory.temporaries > memory.gradients


def batch_shapes_on(built):
    from lm_jax.parallel.sharding import batch_sharding

    where = batch_sharding(built.mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), batch_shapes(built)
    )


@pytest.mark.slow
def test_products_of_the_compiled_step_are_three_times_the_forward_pass():
    compiled = compile_step(program_on("data:8"))
    assert compiled.work.unknown_loops == 0
    assert compiled.work.product_flops == pytest.approx(compiled.model_flops, rel=1e-3)


@pytest.mark.slow
def test_recomputation_costs_a_forward_pass_of_the_layers():
    config = {"model__num_layers": 4}
    whole = compile_step(program_on("data:8", **config)).work.product_flops
    again = compile_step(program_on("data:8", model__remat="full", **config)).work.product_flops
    assert 1.1 < again / whole < 4 / 3


def test_data_parallel_sums_all_gradients_once():
    # A tied table would have two summed gradients: of its rows and of the logits.
    compiled = compile_step(program_on("data:8", model__tie_embeddings=False))
    counted, planned = by_kind(compiled.work.collectives), compiled.planned
    assert planned == [PlannedCollective("all-reduce", ("data",), compiled.memory.gradients)]
    # Beside the gradients only sums of a few numbers: loss, weights.
    assert 0 <= counted["all-reduce"].bytes - compiled.memory.gradients < 1000


def test_fsdp_gathers_parameters_twice():
    built = program_on("fsdp:8")
    compiled = compile_step(built)
    counted = by_kind(compiled.work.collectives)
    planned = planned_by_kind(compiled.planned, built.mesh)
    whole = {row.path: 4 * jnp.prod(jnp.array(row.shape)).item() for row in compiled.placed}
    split = {row.path for row in compiled.placed if "fsdp" in row.axes}
    assert planned["all-gather"].bytes == 2 * sum(whole[path] for path in split)
    assert planned["reduce-scatter"].bytes == sum(whole[path] for path in split)
    assert planned["all-reduce"].bytes == sum(whole[path] for path in whole.keys() - split)
    assert counted["all-gather"].bytes == pytest.approx(planned["all-gather"].bytes, rel=0.25)


def test_axes_of_the_batch_and_of_tensors_share_the_work():
    built = program_on("data:2,fsdp:2,tensor:2")
    arguments = built.model, built.optimizer, built.example, built.mesh
    kernel = abstract_state(*arguments).params["layers"]["feed_forward"]["up"]["kernel"]
    size = kernel.size * 2 // 2  # bytes of bfloat16, of which each device has half the columns
    assert planned_collectives([kernel], jnp.bfloat16, built.mesh, parts=3) == [
        PlannedCollective("all-gather", ("fsdp",), 2 * size, 3),
        PlannedCollective("reduce-scatter", ("fsdp",), size, 3),
        PlannedCollective("all-reduce", ("data",), size // 2, 3),
    ]


def test_tensor_parallel_blocks_sum_twice_each():
    mesh = program_on("fsdp:4,tensor:2").mesh
    shape = {"d_model": 32, "num_layers": 5, "context_length": 10}
    (decoder,) = planned_activations(TransformerConfig(**shape), 3, jnp.bfloat16, mesh.shape)
    assert decoder == PlannedCollective("all-reduce", ("tensor",), 3 * 10 * 32 * 2, 4 * 5)
    parallel = TransformerConfig(**shape, parallel_blocks=True)
    (one_sum,) = planned_activations(parallel, 3, jnp.bfloat16, mesh.shape)
    assert one_sum == decoder._replace(times=2 * 5)
    parallel.norm_order = "both"  # norms stand between the sums
    assert planned_activations(parallel, 3, jnp.bfloat16, mesh.shape) == [decoder]
    both = EncoderDecoderConfig(**shape, source_length=7, num_encoder_layers=2)
    assert planned_activations(both, 3, jnp.bfloat16, mesh.shape) == [
        PlannedCollective("all-reduce", ("tensor",), 3 * 7 * 32 * 2, 4 * 2),
        PlannedCollective("all-reduce", ("tensor",), 3 * 10 * 32 * 2, 6 * 5),
    ]
    alone = program_on("fsdp:8").mesh
    assert planned_activations(TransformerConfig(**shape), 3, jnp.bfloat16, alone.shape) == []


def test_a_split_of_time_gathers_keys_and_values_or_sends_them_round():
    mesh = program_on("fsdp:2,sequence:4").mesh
    shape = {"d_model": 32, "num_layers": 5, "context_length": 16, "num_heads": 4}
    few = TransformerConfig(**shape, num_kv_heads=2)
    size = 3 * 16 * 2 * 16 * 2  # sequences, tokens, keys and values, their width, bytes
    assert planned_activations(few, 3, jnp.bfloat16, mesh.shape) == [
        PlannedCollective("all-gather", ("sequence",), size, 5),
        PlannedCollective("reduce-scatter", ("sequence",), size, 5),
    ]
    few.context_parallel = "ring"
    assert planned_activations(few, 3, jnp.bfloat16, mesh.shape) == [
        PlannedCollective("collective-permute", ("sequence",), size // 4, 5 * (3 + 3 + 4))
    ]
    both = EncoderDecoderConfig(**shape, source_length=8, num_encoder_layers=2)
    gathered = planned_activations(both, 3, jnp.bfloat16, mesh.shape)[::2]
    assert gathered == [  # the source is read by the encoder's layers and by the decoder's
        PlannedCollective("all-gather", ("sequence",), 3 * 8 * 2 * 32 * 2, 2 + 5),
        PlannedCollective("all-gather", ("sequence",), 3 * 16 * 2 * 32 * 2, 5),
    ]
    mixed = program_on("tensor:2,sequence:4").mesh
    (sums, *_) = planned_activations(TransformerConfig(**shape), 3, jnp.bfloat16, mixed.shape)
    assert sums == PlannedCollective("all-reduce", ("tensor",), 3 * 4 * 32 * 2, 4 * 5)


@dataclasses.dataclass
class OutsideConfig(MLPConfig):
    """A family from outside whose parameters a mesh may split, and that is no Transformer."""


OUTSIDE = Family(OutsideConfig, mlp, splits_time=True)
DECLARING = PlannedCollective("all-gather", ("sequence",), 10, 3)


def test_a_family_declares_the_collectives_of_its_activations(monkeypatch):
    experiment = default_experiment(OutsideConfig(d_hidden=16, d_embedding=8, context_length=8))
    experiment.mesh = "data:8"
    built = build_experiment(experiment, {"vocab_size": 64}, jax.devices()[:8])
    (gradients,) = compile_step(built).planned  # nothing declared, and no Transformer taken for it
    assert gradients.axes == ("data",)
    declaring = OUTSIDE._replace(planned_activations=lambda *arguments: [DECLARING])
    monkeypatch.setitem(globals(), "OUTSIDE", declaring)
    assert compile_step(built).planned == [gradients, DECLARING]


@pytest.mark.parametrize("how", ["all_gather", "ring"])
def test_a_split_of_time_exchanges_what_is_planned(how):
    built = program_on(
        "data:2,sequence:4", model__context_parallel=how, model__tie_embeddings=False
    )
    compiled = compile_step(built)
    counted = by_kind(compiled.work.collectives)
    planned = planned_by_kind(compiled.planned, built.mesh)
    # All gradients are summed over both axes, all of which split tokens.
    assert planned["all-reduce"].bytes == compiled.memory.gradients
    assert planned["all-reduce"].bytes <= counted["all-reduce"].bytes
    kind = {"all_gather": "all-gather", "ring": "collective-permute"}[how]
    # The backward pass may gather again; a ring also sends when keys are, and of which segment.
    most = {"all_gather": 2.1, "ring": 1.1}[how]
    assert planned[kind].bytes <= counted[kind].bytes <= most * planned[kind].bytes


def test_a_ring_sends_all_but_a_part_and_a_sum_does_it_twice():
    assert ring_bytes("all-gather", 800, 8) == ring_bytes("reduce-scatter", 800, 8) == 700
    assert ring_bytes("all-reduce", 800, 8) == 1400
    assert ring_bytes("collective-permute", 800, 8) == 800
    assert ring_bytes("all-reduce", 800, 1) == 0


def test_a_group_has_a_port_for_each_of_its_devices_in_a_node():
    planned = [PlannedCollective("all-gather", ("fsdp", "tensor"), 10**9)]
    mesh = program_on("fsdp:2,tensor:4").mesh
    for domain, bandwidth in ((8, 450e9), (4, 4 * 50e9), (2, 2 * 50e9), (1, 50e9)):
        device = ACCELERATORS["h100"]._replace(domain=domain)
        assert seconds(planned, mesh, device) == pytest.approx(7 / 8 * 1e9 / bandwidth), domain


def test_an_axis_within_a_node_uses_its_links():
    mesh = program_on("data:2,fsdp:2,tensor:2").mesh
    slow = ACCELERATORS["h100"]._replace(domain=4)
    for axis, bandwidth in (("tensor", 450e9), ("fsdp", 450e9), ("data", 50e9)):
        expected = 3 * 1e9 / bandwidth
        planned = [PlannedCollective("all-reduce", (axis,), 10**9, 3)]
        assert seconds(planned, mesh, slow) == pytest.approx(expected), axis


def test_what_fits_what_does_not_and_what_cannot_be_told():
    device = ACCELERATORS["v5e"]
    usable = int(USABLE * device.memory_bytes)
    memory = DeviceMemory(100, 200, 100, 0, 300, 0, 0)
    assert fits(memory._replace(total=usable), device) is True
    assert fits(memory._replace(total=usable + 1), device) is None
    assert fits(memory._replace(total=usable + 1), device, exact=True) is False
    assert fits(memory._replace(total=2 * usable, optimizer_state=usable), device) is False
    with pytest.raises(UserError, match="unknown accelerator 'a10'; known are a100, h100"):
        accelerator("a10")


_TEXTS = ("causal_lm", "prefix_lm", "masked_lm", "span_corruption", "skip_gram")


@pytest.mark.parametrize("objective", [*_TEXTS, "seq2seq", "classification"])
def test_batches_have_the_shapes_that_are_compiled(objective):
    shape = {"context_length": 32, "num_layers": 1, "d_model": 32, "num_heads": 4}
    models = {
        "masked_lm": EncoderConfig(**shape),
        "span_corruption": EncoderDecoderConfig(**shape, source_length=64),
        "seq2seq": EncoderDecoderConfig(**shape, source_length=32),
        "skip_gram": SkipGramConfig(),
        "classification": DenseClassifierConfig(),
    }
    config = tiny(objective=objective, model=models.get(objective, TransformerConfig(**shape)))
    if objective == "seq2seq":
        config.data = ParallelTextConfig(source="copy", truncate=True)
        config.data.symbols.num_training_pairs = 500
    elif objective == "classification":
        config.data = ImageConfig()
    if objective != "classification":
        config.data.tokenizer = TokenizerConfig("byte")
    dataset = data.prepare(config.data)
    built = build_experiment(config, dataset.sizes, jax.devices()[:1])
    real = training_batches(built, dataset)[0]
    shapes = {name: (array.shape, array.dtype) for name, array in real.items()}
    assert {n: (s.shape, s.dtype) for n, s in batch_shapes(built).items()} == shapes


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_bytes_of_a_device_do_not_grow_with_the_devices(axis):
    def exchanged(devices):
        config = tiny(mesh=f"{axis}:{devices}", compute_dtype="float32", model__num_layers=2)
        config.model.d_model, config.model.scan_layers = 128, True
        devices = jax.devices()[:devices]
        compiled = compile_step(build_experiment(config, {"vocab_size": 128}, devices))
        return sum(traffic.bytes for traffic in by_kind(compiled.work.collectives).values())

    assert exchanged(8) == pytest.approx(exchanged(4), rel=0.01)


QUICK = [
    "--config=configs/quickstart.py",
    "--config.model.context_length=32",
    "--config.model.num_layers=1",
    "--config.model.d_model=32",
    "--config.model.num_heads=2",
    "--config.evaluation.batch_size=16",
]


@pytest.mark.slow
def test_the_front_door_checks_a_configuration(tmp_path):
    dump = tmp_path / "step.hlo"
    arguments = [*QUICK, "--devices=16", "--mesh=fsdp:8,tensor:2", "--batch_size=16"]
    arguments.append(f"--dump={dump}")
    status, last, err = launch("compile_check", *arguments, "--accelerator=v5e")
    assert status == 0, err
    results = json.loads(last)
    assert results["mesh"] == {"data": 1, "fsdp": 8, "expert": 1, "tensor": 2, "sequence": 1}
    assert results["fits"] is True and results["batch_size"] == 16
    assert results["memory"]["total"] > results["memory"]["parameters"] > 0
    assert dump.read_text().startswith("HloModule jit_train_step")
    assert results["collectives"]["all-gather"]["bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=gpt2_small", "--mesh=fsdp:4,tensor:4"], "tensor:4 does not fit 8 devices"),
        (["--model=gpt2_small", "--mesh=fsdp=8"], "'fsdp=8' is no axis with its size"),
        (["--model=gpt2_small", "--mesh=pipeline:8"], "'pipeline:8' is no axis with its size"),
        (
            ["--model=gpt2_small", "--batch_size=12"],
            "does not divide over mesh data x fsdp x expert = 8",
        ),
        (["--model=gpt2_small", "--accelerator=a10"], "unknown accelerator 'a10'"),
        (["--model=gpt5"], "unknown model 'gpt5'"),
        ([], "give either --model=NAME or --config=FILE"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    status, _, err = launch("compile_check", *arguments)
    assert status == 1 and message in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ")
