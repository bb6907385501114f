"""muP: sizes and rates by the table of Yang et al. 2022, and outputs that move alike at all widths.

The table is Table 3 of "Tensor Programs V", written out again here for a model four times as wide
as its base.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import FineTuningConfig, OptimizerConfig, ScheduleConfig
from lm_jax.config.serialization import differences, dumps, from_dict, to_dict
from lm_jax.errors import UserError
from lm_jax.models import FAMILIES, Family, build_model, family_name
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.dense_classifier import DenseClassifierConfig
from lm_jax.models.interface import Model
from lm_jax.models.mlp import MLPConfig, mlp
from lm_jax.models.naive_bayes import NaiveBayesConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.parameters import Declared
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.scale_width import of_width
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.objectives.validation import validate
from lm_jax.runs.initial_state import inherited_variables
from lm_jax.runs.vmapped_runs import RunGroup
from lm_jax.training.mup import (
    FanInOut,
    _map,
    configurations,
    fan_in_out,
    initial_factor,
    rate_factor,
    with_initial_sizes,
    with_rates,
)
from lm_jax.training.optimizers import make_optimizer
from lm_jax.training.state import init_state
from tests.conftest import slow_but
from tests.models.single_models import compiled, experiment_of, in_mup, random_batch, run

# Growth 4: initial size, rate of Adam, of SGD.
TABLE = {
    "hidden": (1 / 2, 1 / 4, 1.0),
    "output": (1 / 4, 1 / 4, 1 / 4),
    "input": (1.0, 1.0, 4.0),
    "of fixed size": (1.0, 1.0, 1.0),
}
OUTPUT_BIASES = ("output_bias", "output/bias", "direct/bias", "head/bias", "head/classes/bias")

BLOCKS = {"vocab_size": 11, "context_length": 6, "num_layers": 2, "d_model": 32, "num_heads": 4}
ATTENTION = [f"attention/{name}/kernel" for name in ("query", "key", "value", "output")]
LAYER = [*ATTENTION, "feed_forward/up/kernel", "feed_forward/down/kernel"]
CELL = ["input/kernel", "recurrent/kernel"]


def kind_of(path, hidden, output):
    if path in OUTPUT_BIASES:
        return "of fixed size"
    return "hidden" if path in hidden else "output" if path in output else "input"


def under(*modules, leaves):
    return [f"{module}/{leaf}" for module in modules for leaf in leaves]


# A configuration, its hidden matrices, its output weights; all else is input weights and vectors.
FAMILY = {
    "transformer": (
        TransformerConfig(
            **BLOCKS,
            head_dim=6,
            norm_order="both",
            qk_norm="all",
            positions="relative",
            tie_embeddings=False,
        ),
        under("layers", leaves=LAYER),
        ["output"],
    ),
    "transformer, tied and gated": (
        TransformerConfig(**BLOCKS, num_kv_heads=4, d_ff=64, activation="swiglu"),
        under("layers", leaves=[*LAYER, "feed_forward/gate/kernel"]),
        [],
    ),
    "encoder": (
        EncoderConfig(**BLOCKS, num_segment_types=2),
        [*under("layers", leaves=LAYER), "head/transform/kernel"],
        [],
    ),
    "encoder of classes": (
        EncoderConfig(**BLOCKS, num_classes=3, pooling="first"),
        [*under("layers", leaves=LAYER), "head/pooler/kernel"],
        ["head/classes/kernel"],
    ),
    "encoder_decoder": (
        EncoderDecoderConfig(
            **BLOCKS, source_length=6, scale_embeddings=False, tie_embeddings=False
        ),
        [
            *under("encoder/layers", "decoder/layers", leaves=LAYER),
            *under("decoder/layers", leaves=[f"cross_{name}" for name in ATTENTION]),
        ],
        ["output"],
    ),
    "mlp": (
        MLPConfig(11, 6, window=3, d_embedding=16, d_hidden=32, num_layers=2, direct=True),
        ["hidden_0/kernel", "hidden_1/kernel"],
        ["output/kernel", "direct/kernel"],
    ),
    "causal_cnn": (
        CausalCNNConfig(11, 6, num_layers=1, d_model=32),
        ["block_0/convolution/kernel", "block_0/output/kernel"],
        [],
    ),
    "recurrent": (
        RecurrentConfig(11, 6, num_layers=2, d_hidden=32, layer_norm=True),
        under("layer_0", "layer_1", leaves=CELL),
        ["output"],
    ),
    "recurrent_seq2seq": (
        RecurrentSeq2SeqConfig(11, 6, 6, d_hidden=32, attention="additive", d_attention=16),
        [
            *under("encoder_0", "encoder_backward_0", "decoder_0", leaves=CELL),
            *("bridge_0_0/kernel", "bridge_0_1/kernel"),
            *(f"attention/{name}/kernel" for name in ("memory", "query", "combine")),
        ],
        ["attention/score", "output"],
    ),
    "recurrent_classifier": (
        RecurrentClassifierConfig(11, 3, 6, d_embedding=16, d_hidden=32, bidirectional=True),
        under("forward_0", "backward_0", leaves=CELL),
        ["head/kernel"],
    ),
    "dense_classifier": (
        DenseClassifierConfig(3, 8, 8, 1, d_hidden=32),
        ["dense_2/kernel"],
        ["head/kernel"],
    ),
    "skip_gram": (SkipGramConfig(11, d_embedding=32), [], ["output"]),
}


def by_name(tree, is_leaf=None):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def params_of(*models: Model, example):
    """The parameters of each model, drawn with the same key."""

    @jax.jit
    def draw(key):
        batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in example.items()}
        return [nn.unbox(model.init(key, batch))["params"] for model in models]

    return jax.device_get(draw(jax.random.key(0)))


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@functools.cache
def family(name) -> BuiltExperiment:
    return in_mup(FAMILY[name][0])


@pytest.mark.parametrize("name", list(FAMILY))
def test_each_parameter_is_scaled_by_its_row_of_the_table(name):
    _, hidden, output = FAMILY[name]
    found = by_name(family(name).fan_in_out, is_leaf=lambda x: isinstance(x, FanInOut))
    assert not {*hidden, *output} - found.keys()
    for path, fans in found.items():
        kind = kind_of(path, hidden, output)
        factors = (initial_factor(fans), rate_factor("adamw", fans), rate_factor("sgd", fans))
        assert factors == pytest.approx(TABLE[kind]), (path, kind)
        for optimizer in ("adam", "lion", "adafactor"):
            assert rate_factor(optimizer, fans) == factors[1]
        if kind == "hidden":
            assert rate_factor("muon", fans) == pytest.approx(1.0)
        elif not path.endswith("kernel"):
            assert rate_factor("muon", fans) == factors[1]


def test_every_family_is_covered_or_refused():
    covered = {family_name(config) for config, _, _ in FAMILY.values()}
    assert FAMILIES.keys() - covered == {"ngram", "naive_bayes", "convnet"}


def test_updates_of_muons_matrices_have_spectral_norms_that_scale_as_the_root_of_out_over_in():
    def spectral_norm(fan_in, fan_out, base_in, base_out):
        optax_s = math.sqrt(max(1, fan_out / fan_in))  # of an orthogonal matrix
        return optax_s * rate_factor("muon", FanInOut(True, base_in, base_out, fan_in, fan_out))

    for base_in, base_out in ((8, 8), (8, 32), (32, 8), (8, 257), (784, 8)):
        base = spectral_norm(base_in, base_out, base_in, base_out)
        for in_grows, out_grows in ((4, 4), (64, 1), (1, 64)):
            wide = spectral_norm(in_grows * base_in, out_grows * base_out, base_in, base_out)
            assert wide / base == pytest.approx(math.sqrt(out_grows / in_grows))


QUICK = ("transformer", "mlp", "dense_classifier", "skip_gram")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILY]
)
def test_initial_sizes_are_those_of_the_base_times_the_table(name):
    config, hidden, output = FAMILY[name]
    built = family(name)
    width = getattr(config, config.widths()[0])
    base, standard = (build_model(of_width(config, w), jnp.float32) for w in (width // 4, width))
    drawn = params_of(built.model, base, standard, example=built.example)
    wide, narrow, plain = map(by_name, drawn)
    for path, x in wide.items():
        size = TABLE[kind_of(path, hidden, output)][0]
        assert rms(x) == pytest.approx(size * rms(narrow[path]), rel=1e-5), path
        if rms(x):  # only the size differs from what is drawn in the standard parametrisation
            np.testing.assert_allclose(x / rms(x), plain[path] / rms(plain[path]), rtol=1e-4)


def test_initial_sizes_of_known_distributions():
    config = dataclasses.replace(
        FAMILY["transformer"][0], vocab_size=512, d_model=256, num_heads=16
    )
    built = in_mup(config)
    (params,) = params_of(built.model, example=built.example)
    layers = params["layers"]
    assert rms(layers["attention"]["query"]["kernel"]) == pytest.approx(0.02 / 2, rel=0.03)
    # Two layers, so 0.02 / sqrt(4) in the base.
    assert rms(layers["feed_forward"]["down"]["kernel"]) == pytest.approx(0.01 / 2, rel=0.03)
    assert rms(params["output"]) == pytest.approx(0.02 / 4, rel=0.03)
    assert rms(params["embedding"]) == pytest.approx(0.02, rel=0.03)
    np.testing.assert_allclose(params["final_norm"]["scale"], 1, rtol=1e-6)
    np.testing.assert_array_equal(params["final_norm"]["bias"], 0)
    built = in_mup(RecurrentConfig(11, 6, num_layers=1, d_hidden=64))
    (params,) = params_of(built.model, example=built.example)
    gate = params["layer_0"]["recurrent"]["kernel"][:, :64]
    np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-5)  # 1/sqrt(fan-in) already


@pytest.mark.parametrize("family", slow_but(["transformer", "mlp"], "mlp"))
def test_at_the_base_width_losses_are_those_of_the_standard_parametrisation(family):
    config = FAMILY[family][0]
    width = getattr(config, config.widths()[0])
    losses = [run(compiled(config, mup_base_width=base))[0] for base in (0, width)]
    np.testing.assert_array_equal(*losses)


def test_without_growth_nothing_is_scaled():
    standard = compiled(FAMILY["mlp"][0])
    fans = fan_in_out(standard.model, standard.model, standard.example)
    model = with_initial_sizes(standard.model, standard.model, fans)
    before, after = params_of(standard.model, model, example=standard.example)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    optimizer = with_rates(standard.optimizer, "adamw", fans)
    update = lambda o: jax.jit(lambda p: o.update(p, o.init(p), p)[0])(before)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, update(optimizer), update(standard.optimizer))


PARAMS = {"hidden": {"kernel": (8, 8)}, "head": {"kernel": (8, 3), "bias": (3,)}, "table": (5, 8)}
PARAMS_FANS = {
    "hidden": {"kernel": FanInOut(True, 2, 2, 8, 8)},
    "head": {"kernel": FanInOut(True, 2, 3, 8, 3), "bias": FanInOut(False, 1, 3, 1, 3)},
    "table": FanInOut(False, 1, 2, 1, 8),
}


def _declared(path, shape):
    summed = (-2,) if path.endswith("kernel") else ()
    value = jax.ShapeDtypeStruct(shape, jnp.float32)
    return Declared(value, (None,) * len(shape), summed=summed, decayed=bool(summed))


DECLARED = {
    "hidden/kernel": _declared("hidden/kernel", (8, 8)),
    "head/kernel": _declared("head/kernel", (8, 3)),
    "head/bias": _declared("head/bias", (3,)),
    "table": _declared("table", (5, 8)),
}


def normal(seed):
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, PARAMS, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion", "adafactor", "muon"])
def test_updates_are_scaled_and_decay_is_not(name):
    """Two steps against those of the optimizer without decay, times the table."""
    rate, decay, params = 0.1, 0.5, normal(0)
    config = OptimizerConfig(name=name, weight_decay=decay, clip_norm=0.0, epsilon=0.0)
    optimizer = make_optimizer(config, lambda _: rate, DECLARED)
    scaled = with_rates(optimizer, name, PARAMS_FANS)
    plain = make_optimizer(dataclasses.replace(config, weight_decay=0.0), lambda _: rate, DECLARED)
    state, plain_state = scaled.init(params), plain.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))
    scaled, plain = (jax.jit(each.update) for each in (scaled, plain))
    factors = _map(functools.partial(rate_factor, name), PARAMS_FANS)
    decayed = 0.0  # sgd's decay is in its momentum
    for seed in (1, 2):
        grads = normal(seed)
        updates, state = scaled(grads, state, params)
        expected, plain_state = plain(grads, plain_state, params)
        expected = jax.tree.map(lambda x, factor: factor * np.asarray(x), expected, factors)
        decayed = 0.9 * decayed + 1 if name == "sgd" else 1.0
        for part in ("hidden", "head") if name not in ("adam", "adafactor") else ():
            expected[part]["kernel"] -= rate * decay * decayed * params[part]["kernel"]
        for found, wanted in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)


def test_gradients_are_clipped_by_a_norm_that_weighs_them_by_the_rates_of_sgd():
    config = OptimizerConfig(name="sgd", beta1=0.0, weight_decay=0.0, clip_norm=1.0)
    optimizer = with_rates(make_optimizer(config, lambda _: 1.0, DECLARED), "sgd", PARAMS_FANS)
    grads = normal(0)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    rates = {"hidden": {"kernel": 1.0}, "head": {"kernel": 0.25, "bias": 1.0}, "table": 4.0}
    norm = math.sqrt(
        sum(
            rate * float(jnp.sum(g**2))
            for g, rate in zip(*map(jax.tree.leaves, (grads, rates)), strict=True)
        )
    )
    expected = jax.tree.map(lambda g, rate: -rate * g / norm, grads, rates)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected)


def test_only_the_head_is_trained_in_mup_as_well():
    config = FAMILY["dense_classifier"][0]
    built = in_mup(config, fine_tuning=FineTuningConfig("elsewhere", "head"))
    (params,) = params_of(built.model, example=built.example)
    optimizer, ones = built.optimizer, jax.tree.map(np.ones_like, params)
    updates = jax.jit(lambda p: optimizer.update(ones, optimizer.init(p), p)[0])(params)
    changed = {path for path, x in by_name(updates).items() if rms(x)}
    assert changed == {"head/kernel", "head/bias"}


def test_an_optimizer_without_a_rule_is_refused():
    with pytest.raises(UserError, match="no rule scales .*optimizer.name 'mine.py:OURS'"):
        rate_factor("mine.py:OURS", PARAMS_FANS["table"])


@pytest.mark.parametrize("chunks", slow_but([1, 3], 3))
def test_logits_of_a_tied_table_are_divided_by_the_growth(chunks):
    config = FAMILY["transformer, tied and gated"][0]
    config = dataclasses.replace(config, loss_chunks=chunks)
    built, standard = in_mup(config), compiled(config)
    (params,) = params_of(built.model, example=built.example)
    batch = random_batch(built)

    @jax.jit
    def measure(params):
        variables = {"params": params}
        logits, _ = built.model.apply(variables, batch, train=False)
        plain, _ = standard.model.apply(variables, batch, train=False)
        losses, _ = built.model.loss(variables, batch, train=False)
        expected = optax.softmax_cross_entropy_with_integer_labels(plain / 4, batch["targets"])
        carry = built.model.start(variables, 8, 6)
        step, _ = built.model.step(variables, carry, batch["inputs"][:, 0])
        return (logits, losses.nats, step), (plain / 4, expected, plain[:, 0] / 4)

    for found, wanted in zip(*measure(params), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@dataclasses.dataclass
class TiedConfig:
    """A family from outside, with a name of its own for the factor on its logits."""

    d_model: int = 64
    gain: float = 3.0


@dataclasses.dataclass
class SilentConfig(TiedConfig):
    """Another one, which does not say how its logits are scaled."""


TIED = Family(
    TiedConfig,
    mlp,
    widths=lambda config: ("d_model",),
    ties_embeddings=lambda config: True,
    scale_logits=lambda config, factor: TiedConfig(config.d_model, config.gain * factor),
)
SILENT = TIED._replace(config=SilentConfig, scale_logits=Family._field_defaults["scale_logits"])


def test_a_family_declares_how_the_logits_of_a_tied_table_are_scaled():
    assert configurations(TiedConfig(), 16) == (TiedConfig(64, 3 / 4), TiedConfig(16, 3.0))
    with pytest.raises(UserError, match="SilentConfig declares no scale_logits"):
        configurations(SilentConfig(), 16)


def test_runs_of_a_fan_are_what_they_are_alone():
    config = FAMILY["mlp"][0]
    rates = (1e-2, 3e-2)
    members = [in_mup(config, schedule=ScheduleConfig("cosine", r, 1)) for r in rates]
    batch = random_batch(members[0])
    alone = []
    group = RunGroup(members)
    states = [
        init_state(m.model, m.optimizer, m.example, m.mesh, m.experiment.seed) for m in members
    ]
    for member, state in zip(members, states, strict=True):
        losses = []
        for _ in range(3):
            state, metrics = jax.jit(member.train_step)(state, batch)
            losses.append(float(metrics["loss"]))
        alone.append(losses)
    train_step = jax.jit(group.train_step())
    state, together = group.stack(states), []
    for _ in range(3):
        state, metrics = train_step(state, {k: np.stack([v, v]) for k, v in batch.items()})
        together.append(metrics["loss"])
    np.testing.assert_allclose(np.transpose(together), alone, rtol=1e-5)


SEQ2SEQ = FAMILY["recurrent_seq2seq"][0]


@pytest.mark.parametrize(
    ("config", "base", "message"),
    [
        (NgramConfig(order=3), 8, "mup_base_width is 8, but a NgramConfig has no width"),
        (NaiveBayesConfig(), 8, "NaiveBayesConfig has no width"),
        (ConvNetConfig(), 8, "ConvNetConfig has no width"),
        (
            TransformerConfig(d_model=128),
            48,
            "4 into 1.5; expected a multiple of 32",
        ),
        (
            MLPConfig(d_hidden=512, d_embedding=50),
            64,
            "50 into 6.25; expected a multiple of 256",
        ),
        (TransformerConfig(scale_embeddings=True), 32, "model.scale_embeddings makes them grow"),
        (
            RecurrentConfig(tie_embeddings=True),
            32,
            "recurrent models with model.tie_embeddings multiply them",
        ),
        (
            dataclasses.replace(SEQ2SEQ, tie_embeddings=True),
            8,
            "models with model.tie_embeddings multiply",
        ),
        (dataclasses.replace(SEQ2SEQ, attention="dot"), 8, "model.attention dot sums them"),
        (TransformerConfig(), -1, "mup_base_width is -1; expected at least 0"),
    ],
)
def test_what_cannot_be_scaled_is_refused(config, base, message):
    experiment = default_experiment(config)
    experiment.mup_base_width = base
    with pytest.raises(UserError, match=message) as error:
        validate(experiment)
    assert "\n" not in str(error.value)


def test_a_run_is_fine_tuned_in_its_own_parametrisation(tmp_path):
    theirs = experiment_of(TransformerConfig(), mup_base_width=32)
    (tmp_path / "config.json").write_text(dumps(theirs))
    ours = experiment_of(TransformerConfig(), fine_tuning=FineTuningConfig(str(tmp_path)))
    with pytest.raises(UserError, match="has mup_base_width 32, not 0, which gives parameters"):
        inherited_variables(ours, None)


def test_the_base_width_decides_the_numbers_of_a_run():
    plain = experiment_of(TransformerConfig())
    wide = dataclasses.replace(plain, mup_base_width=32)
    assert differences(plain, wide) == ["mup_base_width: 0 -> 32"]
    assert from_dict(to_dict(wide)) == wide
