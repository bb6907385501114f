"""Parameters and FLOPs of models, beside closed forms, published figures, autodiff and XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from lm_jax.config.presets import preset
from lm_jax.costs.compiled_step import batch_shapes, step_flops
from lm_jax.costs.jaxpr_flops import product_flops
from lm_jax.costs.model_flops import (
    active_parameters,
    count_parameters,
    decoding_flops,
    embedding_split,
    formula,
    forward_flops,
    training_flops,
)
from lm_jax.models import FAMILIES, build_model
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.parameters import declarations
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer import flash_attention
from lm_jax.models.transformer.config import EncoderConfig, TransformerConfig
from lm_jax.objectives import targets_per_step
from lm_jax.parallel import sharding
from lm_jax.training.optimizers import is_head
from lm_jax.training.state import abstract_state
from tests.conftest import slow_but
from tests.costs.families import MODELS, program_of, unrolled


def tokens(rows, time):
    shape = jax.ShapeDtypeStruct((rows, time), jnp.int32)
    return {"inputs": shape, "targets": shape}


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_transformer_costs_6n_and_12ldt_a_token(scan_layers, remat):
    """Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T, N without what is only looked up."""
    layers, width, time, rows = 3, 32, 16, 5
    config = TransformerConfig(
        64,
        context_length=time,
        num_layers=layers,
        d_model=width,
        num_heads=4,
        use_bias=False,
        scan_layers=scan_layers,
        remat=remat,
    )
    counts = count_parameters(config)
    products = counts["attention"] + counts["hidden"] + counts["embedding"]
    of_a_token = 6 * products + 12 * layers * width * time
    flops = training_flops(build_model(config, jnp.float32), tokens(rows, time))
    assert flops == rows * time * of_a_token


def test_half_of_causal_attention_is_spared_where_it_is():
    """From 128 tokens on, the first half of the queries reads half of the keys."""
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 4}

    def attention(time):
        config = TransformerConfig(64, context_length=time, **shape)
        flops = training_flops(build_model(config, jnp.float32), tokens(1, time))
        counts = count_parameters(
            TransformerConfig(64, context_length=time, use_bias=False, **shape)
        )
        products = counts["attention"] + counts["hidden"] + counts["embedding"]
        return (flops - 6 * products * time) / (12 * 2 * 32 * time**2)

    assert attention(64) == 1.0
    assert attention(128) == 0.75


def test_recurrent_and_convolutional_models_are_counted():
    config = RecurrentConfig(5000, context_length=9)  # more than a batch has tokens
    model = build_model(config, jnp.float32)
    one, two = (training_flops(model, tokens(rows, 9)) for rows in (64, 128))
    assert two == 2 * one > 0
    images = {
        "inputs": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),
        "targets": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    assert training_flops(build_model(ConvNetConfig("lenet5", 10, 28, 28, 1), jnp.float32), images)


def split(config):
    return embedding_split(count_parameters(config))


def test_published_models_have_kaplans_parameters_besides_their_embeddings():
    """Kaplan et al. 2020, section 2.1: 12 L d^2 are not in embeddings, but for biases and norms."""
    for name, context in (("gpt2_small", 1024), ("gpt2_xl", 1024), ("gpt3_175b", 2048)):
        config = preset(name)
        layers, width = config.num_layers, config.d_model
        total, embedding, rest = split(config)
        assert embedding == (50_257 + context) * width and total == embedding + rest
        assert rest == 12 * layers * width**2 + 13 * layers * width + 2 * width
    assert split(preset("gpt2_small")) == (124_439_808, 39_383_808, 85_056_000)


def test_every_table_that_is_looked_up_in_is_an_embedding_once():
    shape = {"num_layers": 2, "d_model": 8, "num_heads": 2, "context_length": 5}
    tied, untied = (TransformerConfig(50, **shape, tie_embeddings=tie) for tie in (True, False))
    assert split(tied).embedding == split(untied).embedding == 8 * (50 + 5)
    assert split(untied).non_embedding - split(tied).non_embedding == 50 * 8
    assert split(EncoderConfig(50, **shape, num_segment_types=2)).embedding == 8 * (50 + 5 + 2)
    # T5's table of 32 relative positions, of each tower and head.
    assert split(preset("t5_small")).embedding == 32_128 * 512 + 2 * 32 * 8
    assert split(MLPConfig(50, d_embedding=6)).embedding == 50 * 6
    assert split(RecurrentConfig(50, d_embedding=6, d_hidden=4)).embedding == 50 * 6
    assert split(CausalCNNConfig(50, d_model=6)).embedding == 50 * 6
    seq2seq = RecurrentSeq2SeqConfig(50, d_hidden=4)
    assert split(seq2seq).embedding == 2 * 50 * 4  # of source and target
    assert split(dataclasses.replace(seq2seq, tie_embeddings=True)).embedding == 50 * 4
    assert split(SkipGramConfig(50, d_embedding=6)) == (600, 300, 300)
    assert split(preset("resnet18")) == (11_689_512, 0, 11_689_512)


def test_parameters_do_not_depend_on_the_kernel_of_attention(monkeypatch):
    monkeypatch.setattr(flash_attention, "target", lambda: "cuda")
    fused = dataclasses.replace(preset("gpt2_small"), attention="cudnn")
    assert count_parameters(fused) == count_parameters(preset("gpt2_small"))


def test_a_token_of_gpt2_costs_2n_and_4ldt_to_write():
    config = preset("gpt2_small")
    layers, width, time = config.num_layers, config.d_model, config.context_length
    counts = count_parameters(dataclasses.replace(config, use_bias=False))
    products = counts["attention"] + counts["hidden"] + counts["embedding"]
    model = build_model(config, jnp.float32)
    assert decoding_flops(model, tokens(3, time)) == 2 * products + 4 * layers * width * time
    by_formula = formula(config)
    assert by_formula.parameters == 124_439_808 - 1024 * 768
    assert by_formula.attention == layers * width * time
    assert by_formula.training == 3 * by_formula.forward


def test_all_at_once_and_one_by_one_an_lstm_costs_the_same():
    config = RecurrentConfig(50, context_length=4, num_layers=2, d_hidden=8)
    model = build_model(config, jnp.float32)
    weights = 2 * (2 * 8 * 32) + 8 * 50
    assert decoding_flops(model, tokens(1, 4)) == 2 * weights
    assert forward_flops(model, tokens(2, 4)) == 8 * 2 * weights
    assert training_flops(model, tokens(2, 4)) == 3 * 8 * 2 * weights


def test_what_is_not_trained_has_no_gradients_to_compute():
    """Pixels have no gradients; in a frozen network only the weights of the head have them."""
    config = ConvNetConfig("lenet5", 10, 28, 28, 1)
    model, rows = build_model(config, jnp.float32), 2
    images = {
        "inputs": jax.ShapeDtypeStruct((rows, 28, 28, 1), jnp.float32),
        "targets": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
    forward, first, head = forward_flops(model, images), 2 * 28 * 28 * 6 * 25, 2 * 84 * 10
    assert training_flops(model, images) == 3 * forward - rows * first
    assert (
        training_flops(model, images, is_head(declarations(model.init, images)))
        == forward + rows * head
    )


def test_the_cases_are_of_all_families():
    assert set(MODELS) == set(FAMILIES)


COUNT = ("ngram", "naive_bayes")
DESCEND = [name for name in MODELS if name not in COUNT]


def shapes_of(built):
    """The variables of a model and a batch."""
    batch = batch_shapes(built)
    variables = jax.eval_shape(built.model.init, jax.random.key(0), batch)
    return dict(sharding.unboxed(variables)), batch


def gradients_of(built):
    """The function (parameters, variables, batch) -> the gradients of the loss."""

    def loss(params, variables, batch):
        variables = {**variables, "params": params}
        key = jax.random.key(0)
        return built.model.loss(variables, batch, train=True, key=key)[0].nats.sum()

    return jax.grad(loss)


@pytest.mark.parametrize("family", DESCEND)
def test_training_costs_what_autodiff_traces(family):
    built = program_of(family)
    variables, batch = shapes_of(built)
    traced = jax.make_jaxpr(gradients_of(built))(variables["params"], variables, batch)
    # A gradient of the batch that a rule computes and nobody reads is not compiled either.
    read, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    assert product_flops(read) == step_flops(built)


def xla_flops(function, *arguments):
    """XLA's count of a program before its optimizations, elementwise operations included."""
    return unrolled_program(function, *arguments).cost_analysis()["flops"]


def unrolled_program(function, *arguments):
    with unrolled():
        return jax.jit(function).lower(*arguments)


# What autodiff traces is held for all of them, above.
@pytest.mark.parametrize(
    "family",
    slow_but([n for n in DESCEND if n != "skip_gram"], "transformer", "convnet", "recurrent"),
)
def test_a_train_step_is_within_5_percent_of_xlas_count(family):
    built = program_of(family)
    arguments = built.model, built.optimizer, built.example, built.mesh
    state = abstract_state(*arguments)
    with sharding.on_mesh(built.mesh):
        lowered = unrolled_program(built.train_step, state, batch_shapes(built))
    assert "stablehlo.while" not in lowered.as_text()
    theirs = lowered.cost_analysis()["flops"]
    assert step_flops(built) == pytest.approx(theirs, rel=0.05)


def test_pairs_of_words_are_within_5_percent_of_xlas_count_but_for_sums_of_rows():
    built = program_of("skip_gram")
    variables, batch = shapes_of(built)
    config = built.experiment.model
    # The word, its neighbour and the negatives: each adds a gradient to its row of a table.
    rows = batch["inputs"].size * (2 + config.negatives)
    arguments = variables["params"], variables, batch
    theirs = xla_flops(gradients_of(built), *arguments)
    ours = step_flops(built) + rows * config.d_embedding
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("family", slow_but(DESCEND, "encoder_decoder", "recurrent", "convnet"))
def test_inference_is_within_5_percent_of_xlas_count(family):
    built = program_of(family)
    model, (variables, batch) = built.model, shapes_of(built)
    logits = xla_flops(lambda v, b: model.apply(v, b, train=False)[0], variables, batch)
    assert forward_flops(model, batch) == pytest.approx(logits, rel=0.05)
    if model.step is None:
        assert decoding_flops(model, batch) is None
        return
    row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    source = [row] if "source" in row else []
    length = row["inputs"].shape[1]
    carry = jax.eval_shape(lambda v, *s: model.start(v, 1, length, *s), variables, *source)
    written = xla_flops(model.step, variables, carry, jax.ShapeDtypeStruct((1,), jnp.int32))
    assert decoding_flops(model, batch) == pytest.approx(written, rel=0.05)


@pytest.mark.parametrize("family", COUNT)
def test_models_that_count_multiply_nothing(family):
    built = program_of(family)
    model, (variables, batch) = built.model, shapes_of(built)
    lowered = jax.jit(lambda v, b: model.apply(v, b, train=False)[0]).lower(variables, batch)
    assert "dot_general" not in lowered.as_text()
    assert forward_flops(model, batch) == step_flops(built) == 0


@pytest.mark.parametrize("family", [name for name in MODELS if formula(MODELS[name][0])])
def test_the_formula_is_within_5_percent_of_what_is_traced(family):
    built = program_of(family)
    by_formula, batch = formula(built.experiment.model), batch_shapes(built)
    tokens = targets_per_step(built.experiment)
    traced = (step_flops(built) / tokens, forward_flops(built.model, batch) / tokens)
    assert (by_formula.training, by_formula.forward) == pytest.approx(traced, rel=0.05)


def test_a_mixture_counts_what_a_token_passes():
    """Two of eight experts, a shared one and the router, by hand; FLOPs as in a dense model."""
    shape = {"context_length": 64, "num_layers": 1, "d_model": 64, "num_heads": 4}
    config = TransformerConfig(
        128, **shape, use_bias=False, num_experts=8, d_expert=96, d_shared_expert=32
    )
    counts = count_parameters(config)
    assert counts["experts"] == 8 * 2 * 64 * 96 and counts["router"] == 64 * (8 + 1)
    inactive = 6 * 2 * 64 * 96
    assert active_parameters(config, counts) == counts["total"] - inactive
    dense = TransformerConfig(128, **shape, use_bias=False, d_ff=2 * 96 + 32)
    router = 2 * 64 * (8 + 1)  # per token
    batch = {name: jax.ShapeDtypeStruct((2, 64), jnp.int32) for name in ("inputs", "targets")}

    mixed, plain = (training_flops(build_model(c, jnp.float32), batch) for c in (config, dense))
    assert mixed - plain == 3 * 128 * router
    assert active_parameters(dense, count_parameters(dense)) == count_parameters(dense)["total"]
