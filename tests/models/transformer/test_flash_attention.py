"""cuDNN's attention, as far as a machine without a GPU can tell."""

import dataclasses
import re
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.costs.model_flops import training_flops
from lm_jax.errors import UserError
from lm_jax.models import build_model, family_of
from lm_jax.models.transformer import flash_attention
from lm_jax.models.transformer.attention import attend, same_segment, visible
from lm_jax.models.transformer.config import (
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
)
from lm_jax.models.transformer.flash_attention import attend_fused, kernel
from tests.conftest import slow_but


@pytest.fixture
def plain_kernel(monkeypatch):
    """The same function of jax.nn, by XLA: what it means does not depend on who computes it.

    Gives the options of each call.
    """
    real, calls = jax.nn.dot_product_attention, []

    def by_xla(*arguments, implementation, **options):
        assert implementation == "cudnn"
        calls.append(options)
        return real(*arguments, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    return calls


@pytest.fixture
def on_cuda(monkeypatch):
    """As if these devices were GPUs, with cuDNN 9.10."""
    installed = SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.cuda_versions", installed)
    monkeypatch.setattr(flash_attention, "target", lambda: "cuda")


SEGMENTS = jnp.asarray([[1] * 5 + [2] * 9 + [0] * 2, [1] * 16], jnp.int32)


@pytest.mark.parametrize("case", ["causal", "packed", "across"])
@pytest.mark.parametrize("groups", [1, 4])
def test_attention_and_its_gradient_are_those_of_attend(plain_kernel, case, groups):
    keys = 12 if case == "across" else 16
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, time, heads, 8))
        for i, (time, heads) in enumerate(((16, 4), (keys, groups), (keys, groups)))
    )
    index = jnp.arange(16)[None]
    visible_bts = visible(index, index)
    if case == "packed":
        visible_bts &= same_segment(SEGMENTS, SEGMENTS)
    elif case == "across":
        visible_bts = same_segment(SEGMENTS, SEGMENTS[:, :keys])
    causal = case != "across"
    given_bts = None if case == "causal" else visible_bts

    def ours(q, k, v):
        return attend(q, k, v, visible_bts, causal=causal)

    def fused(q, k, v):
        return attend_fused(q, k, v, given_bts, causal=causal)

    def results(f):
        def total(arguments):
            y_bthk = f(*arguments)
            return jnp.sum(jnp.sin(y_bthk)), y_bthk

        gradients, y_bthk = jax.jit(jax.grad(total, has_aux=True))((q, k, v))
        return y_bthk, gradients

    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), results(fused), results(ours))


SHAPE = {"vocab_size": 29, "context_length": 16, "num_layers": 1, "d_model": 32, "num_heads": 4}
CONFIGS = {
    "decoder": TransformerConfig(num_kv_heads=2, **SHAPE),
    "encoder": EncoderConfig(**SHAPE),
    "encoder_decoder": EncoderDecoderConfig(source_length=16, **SHAPE),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", slow_but(CONFIGS, "encoder_decoder"))
def test_a_model_is_the_same_with_either_kernel(monkeypatch, plain_kernel, kind, packed):
    config, rng = CONFIGS[kind], np.random.default_rng(0)
    inputs, source = rng.integers(0, 29, (2, 2, 16)).astype(np.int32)
    batch = {"inputs": inputs}
    if packed:
        batch["segments"] = SEGMENTS
    if kind == "encoder_decoder":
        batch["source"] = source
        if packed:
            batch["source_segments"] = SEGMENTS
    model = build_model(config, jnp.float32)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype("f"), shapes)
    expected, _ = jax.jit(partial(model.apply, train=False))(variables, batch)
    monkeypatch.setattr("lm_jax.models.transformer.assembly.kernel", lambda config, dtype: "cudnn")
    fused = build_model(config, jnp.float32)
    found, _ = jax.jit(partial(fused.apply, train=False))(variables, batch)
    assert {options["mask"] is not None for options in plain_kernel} == {packed}
    causal = {"decoder": {True}, "encoder": {False}, "encoder_decoder": {True, False}}[kind]
    assert {options["is_causal"] for options in plain_kernel} == causal
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    maps = family_of(config).attention_maps(config)(variables, batch)
    config.attention = "cudnn"
    try:
        again = family_of(config).attention_maps(config)(variables, batch)
    finally:
        config.attention = "xla"
    jax.tree.map(np.testing.assert_array_equal, again, maps)


def kernel_calls(batch, **fields):
    """(kind of bias, pass) of each call in the gradient's program, lowered for a GPU elsewhere."""
    model = build_model(TransformerConfig(**SHAPE | {"attention": "cudnn"} | fields), jnp.bfloat16)
    batch = {"inputs": jnp.zeros((2, 16), jnp.int32)} | batch
    batch["targets"] = batch["inputs"]
    variables = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))

    def mean(variables):
        return jnp.mean(model.loss(variables, batch, train=True)[0].nats)

    traced = jax.jit(jax.grad(mean)).trace(variables)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "x4x16x16x" not in text  # no scores of four heads
    assert "tensor<2x1x16x16xbf16>, tensor<0xui8>)" not in text  # no result is a mask's gradient
    calls = re.findall(r"__cudnn\$fmha(\w*)Softmax(\w*)\(", text)
    assert len(re.findall(r"mask_type\\22: \\22CAUSAL\\22", text)) == len(calls)
    return sorted(calls)


@pytest.mark.parametrize(
    ("packed", "window", "bias"),
    [
        (False, 0, ""),
        pytest.param(False, 4, "ScaleBias", marks=pytest.mark.slow),
        (True, 4, "ScaleBias"),
    ],
)
def test_the_program_for_a_gpu_calls_flash_attention(on_cuda, packed, window, bias):
    batch = {"segments": SEGMENTS} if packed else {}
    fields = {"num_kv_heads": 2, "attention_scale": 0.5, "sliding_window": window}
    assert kernel_calls(batch, **fields) == [(bias, ""), (bias, "Backward")]


def test_attention_is_computed_again_under_full_remat_only(on_cuda):
    assert kernel_calls({}, remat="dots") == [("", ""), ("", "Backward")]
    assert kernel_calls({}, remat="full") == [("", ""), ("", ""), ("", "Backward")]


def test_what_the_kernel_computes_is_counted(on_cuda):
    """The kernel computes half of causal attention; the plain path computes all of 16 tokens."""
    config, batch = TransformerConfig(**SHAPE), {"inputs": jnp.zeros((2, 16), jnp.int32)}
    batch["targets"] = batch["inputs"]
    plain = dataclasses.replace(config, attention="xla")
    whole = training_flops(build_model(plain, jnp.bfloat16), batch)
    fused = TransformerConfig(**SHAPE | {"attention": "cudnn"})
    attention = 3 * 4 * 2 * 16 * 16 * 32  # scores and sums, of 2 rows and 32 columns of heads
    assert training_flops(build_model(fused, jnp.bfloat16), batch) == whole - attention // 2


def test_auto_takes_the_kernel_where_it_serves(monkeypatch):
    config = TransformerConfig(**SHAPE | {"attention": "auto"})
    assert kernel(config, jnp.dtype("bfloat16")) == "xla"  # these devices are CPUs
    monkeypatch.setattr(flash_attention, "target", lambda: "cuda")
    assert kernel(config, jnp.dtype("bfloat16")) == "cudnn"
    plain = TransformerConfig(**SHAPE | {"attention": "xla"})
    assert kernel(plain, jnp.dtype("bfloat16")) == "xla"
    monkeypatch.setattr(flash_attention, "target", lambda: "tpu")
    assert kernel(config, jnp.dtype("bfloat16")) == "xla"  # 16 tokens
    config.context_length = 256
    assert kernel(config, jnp.dtype("bfloat16")) == "splash"
    config.positions = "relative"
    assert kernel(config, jnp.dtype("bfloat16")) == "xla"
    config.attention = "splash"
    with pytest.raises(UserError, match="is splash, but relative positions are biases"):
        kernel(config, jnp.dtype("bfloat16"))


@pytest.mark.parametrize(
    ("fields", "dtype", "message"),
    [
        ({}, "float32", "compute_dtype is float32, not bfloat16"),
        ({"attention_soft_cap": 1.0}, "bfloat16", "its kernels know no model.attention_soft_cap"),
        ({"positions": "relative"}, "bfloat16", "relative positions are biases"),
        ({"d_model": 36}, "bfloat16", "the width of a head is 9"),
        ({"d_model": 1024}, "bfloat16", "the width of a head is 256"),
        ({"context_length": 15}, "bfloat16", "model.context_length is 15, an odd number"),
    ],
)
def test_what_the_kernel_cannot_do_is_said_or_left_to_xla(on_cuda, fields, dtype, message):
    config = TransformerConfig(**SHAPE | {"attention": "cudnn"} | fields)
    with pytest.raises(UserError, match=f"model.attention is cudnn, but {message}"):
        kernel(config, jnp.dtype(dtype))
    config.attention = "auto"
    assert kernel(config, jnp.dtype(dtype)) == "xla"


def test_a_cpu_has_no_such_kernel():
    config = TransformerConfig(**SHAPE | {"attention": "cudnn"})
    with pytest.raises(UserError, match="the devices are cpus, not CUDA GPUs; take auto"):
        build_model(config, jnp.bfloat16)
