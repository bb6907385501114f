"""Low-rank updates: the function that they compute, what is trained, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.build import build_experiment
from lm_jax.config.experiment import FineTuningConfig
from lm_jax.costs.compiled_step import step_flops
from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.low_rank import LowRank, merged, with_updates
from lm_jax.models.parameters import declarations, path_of
from lm_jax.models.transformer.config import (
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
)
from lm_jax.objectives import objective_of
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.runs.recorder import sizes_of
from lm_jax.training.mup import rate_factor
from lm_jax.training.optimizers import TRAINED
from lm_jax.training.state import abstract_state, init_state, state_bytes, variables_of
from tests.experiments import tiny
from tests.parallel.on_meshes import begin, random_batch

SIZES = {"vocab_size": 64}
ROWS, TIME, WIDTH, LAYERS, RANK = 8, 16, 32, 2, 2


def experiment(parameters="lora", model=None, **fields):
    """A Transformer of two layers; its updates have rank 2 and count 4 times."""
    if model is None:
        model = TransformerConfig(0, TIME, d_model=WIDTH, num_layers=LAYERS, num_heads=4, d_ff=64)
        model.num_kv_heads, model.scan_layers = 2, True
    tuning = FineTuningConfig("elsewhere", parameters, RANK, 8.0)
    return tiny(model=model, **{"fine_tuning": tuning, **fields})


def built_of(config):
    return build_experiment(config, SIZES, jax.devices()[:1])


def by_path(tree):
    return {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def factors(paths):
    return {path for path in paths if path.endswith(("/lora_a", "/lora_b"))}


def test_updates_begin_at_zero_train_alone_and_merge_into_their_kernels():
    built, plain = built_of(experiment()), built_of(experiment("all"))
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    batch = random_batch(built, 0)
    steps = jax.jit(lambda state: jax.lax.fori_loop(0, 3, lambda _, s: step(s), state))
    logits = jax.jit(lambda model, v: model.apply(v, batch, train=False)[0], static_argnums=0)

    def step(state):
        return built.train_step(state, batch)[0]

    after = steps(state)
    kernels = {"params": merged(state.params, 0.0)}  # without updates
    np.testing.assert_array_equal(
        logits(built.model, variables_of(state)), logits(plain.model, kernels)
    )
    ours, whole = variables_of(after), built.model.merge(variables_of(after))
    expected = logits(plain.model, whole)
    np.testing.assert_allclose(logits(built.model, ours), expected, atol=2e-5)
    assert np.abs(expected - logits(plain.model, kernels)).max() > 1e-2

    first, last = by_path(state.params), by_path(after.params)
    changed = {path for path, x in first.items() if not np.array_equal(x, last[path])}
    assert changed == factors(first) and len(changed) == 2 * 6
    a, b = (f"layers/attention/key/lora_{name}" for name in "ab")
    assert first[a].shape == (LAYERS, WIDTH, RANK) and first[b].shape == (LAYERS, RANK, 16)
    assert 0.9 < np.abs(first[a]).max() * WIDTH**0.5 <= 1  # uniform within 1 / sqrt(inputs)
    update = np.einsum("lir,lro->lio", last[a], last[b])
    found = by_path(whole["params"])["layers/attention/key/kernel"]
    np.testing.assert_allclose(found, last["layers/attention/key/kernel"] + 4 * update, atol=1e-6)


def test_the_gradient_of_a_factor_is_that_of_the_product_that_it_stands_in():
    """d/dA of f(W + s A B) is s dW B^T, and d/dB is s A^T dW, with dW of the whole model."""
    built, plain = built_of(experiment()), built_of(experiment("all"))
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    params = jax.tree.map(lambda x: x + 0.01, state.params)  # B is no longer zero
    batch = random_batch(built, 0)

    def loss(model):
        return lambda p: model.loss({"params": p}, batch, train=False)[0].nats.mean()

    whole = built.model.merge({"params": params})["params"]
    own, of_kernels = jax.jit(
        lambda: (jax.grad(loss(built.model))(params), jax.grad(loss(plain.model))(whole))
    )()
    for layer in ("layers/attention/output", "layers/feed_forward/down"):
        kernel = by_path(of_kernels)[f"{layer}/kernel"]
        a, b = (by_path(params)[f"{layer}/lora_{name}"] for name in "ab")
        expected = {"a": 4 * kernel @ b.mT, "b": 4 * a.mT @ kernel}
        for name, wanted in expected.items():
            found = by_path(own)[f"{layer}/lora_{name}"]
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_frozen_parameters_have_no_optimizer_state_and_no_gradients():
    built, plain = built_of(experiment()), built_of(experiment("all"))
    states = [abstract_state(b.model, b.optimizer, b.example, b.mesh) for b in (built, plain)]
    size = {"trained": 0, "all": sum(x.size for x in jax.tree.leaves(states[1].params))}
    shapes = [(WIDTH, WIDTH), (WIDTH, 16), (WIDTH, 16), (WIDTH, WIDTH), (WIDTH, 64), (64, WIDTH)]
    size["trained"] = LAYERS * sum(RANK * (i + o) for i, o in shapes)
    assert sizes_of(built, states[0]) == {
        "parameters": size["all"],
        "trained_parameters": size["trained"],
    }
    assert sizes_of(plain, states[1]) == {"parameters": size["all"]}
    moments = sum(x.size for x in jax.tree.leaves(states[0].opt_state) if x.ndim)
    assert moments == 2 * size["trained"]
    found = state_bytes(built.model, built.optimizer, built.example, built.is_trained)
    assert 0 <= found - 4 * (size["all"] + 4 * size["trained"]) < 100  # and counts of steps

    # Products of a step, in weights: forward 1, backward to the inputs 1, to a kernel 1.
    kernels = LAYERS * sum(i * o for i, o in shapes)
    tokens = ROWS * TIME
    saved = step_flops(plain) - step_flops(built)
    assert saved == 2 * tokens * (kernels + SIZES["vocab_size"] * WIDTH - 3 * size["trained"])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("*/query/kernel,*/kernle", r"lora_targets: '\*/kernle' matches no kernel of a dense"),
        ("*norm/scale", "this model has layers/attention/key/kernel, layers/attention/output"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is(targets, message):
    config = experiment()
    config.fine_tuning.lora_targets = targets
    with pytest.raises(UserError, match=message):
        built_of(config)


def test_matrices_of_experts_are_refused():
    config = experiment(model=TransformerConfig(d_model=32, num_layers=1, num_experts=2))
    with pytest.raises(UserError, match=r"'\*feed_forward/\*/kernel' .*matrices of experts"):
        built_of(config)


def test_updates_without_a_run_to_start_from_are_refused():
    with pytest.raises(UserError, match="trains updates of another run; give that run as"):
        built_of(experiment(fine_tuning=FineTuningConfig("", "lora")))


CROSS = {f"decoder/layers/cross_attention/{name}" for name in ("query", "key", "value", "output")}
EXPERTS = {"num_experts": 2, "d_shared_expert": 8}


@pytest.mark.parametrize(
    ("config", "has", "head"),
    [
        (EncoderConfig(64, num_classes=3, pooling="first"), {"layers/feed_forward/up"}, True),
        (EncoderDecoderConfig(64), CROSS, False),
        (TransformerConfig(64, **EXPERTS), {"layers/feed_forward/shared/down"}, False),
    ],
)
def test_each_transformer_has_updates_and_trains_its_head_beside_them(config, has, head):
    experiment = default_experiment(config)
    example = objective_of(experiment).example(experiment, 1)
    low_rank = LowRank(RANK, 8.0, tuple(FineTuningConfig().lora_targets.split(",")))
    model = with_updates(build_model(config, jnp.float32), low_rank, example)
    found = declarations(model.init, example)
    assert {f"{layer}/lora_a" for layer in has} <= factors(found)
    params = {path: parameter.value for path, parameter in found.items()}
    mask = TRAINED["lora"](found)(params)
    others = {path for path, trained in mask.items() if trained} - factors(found)
    assert others == {path for path in found if path.startswith("head/")}
    assert bool(others) == head


def test_in_mup_the_rate_of_the_first_factor_alone_falls_with_the_width():
    built = built_of(experiment(mup_base_width=16))  # half of the width
    fans = built.fan_in_out["layers"]["attention"]["query"]
    rates = {name: rate_factor("adamw", fans[f"lora_{name}"]) for name in "ab"}
    assert rates == {"a": 0.5, "b": 1.0}


@pytest.mark.slow
def test_a_mesh_trains_the_same_updates():
    losses = []
    for config in (experiment(), experiment(mesh="fsdp:4,tensor:2")):
        built, state = begin(config, SIZES)
        step, found = jax.jit(built.train_step), []
        for number in range(3):
            state, metrics = step(state, random_batch(built, number))
            found.append(float(metrics["loss"]))
        losses.append(found)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
