"""Norms for GPUs: the numbers of the closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.transformer import layers
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.fused_norms import layer_norm, rms_norm

EPSILON = 1e-3


def example(*shape):
    rng = np.random.default_rng(0)
    x_nd, dy_nd = rng.normal(3, 2, (2, *shape)).astype(np.float32)  # the mean is not 0
    return x_nd, *rng.normal(1, 1, (2, shape[-1])).astype(np.float32), dy_nd


def closed_form(x_nd, scale_d, bias_d, norm):
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias, float64; RMS: the mean is 0."""
    centered_nd = x_nd if norm == "rms_norm" else x_nd - x_nd.mean(-1, keepdims=True)
    variance_n = np.mean(centered_nd**2, axis=-1, keepdims=True)
    y_nd = centered_nd / np.sqrt(variance_n + EPSILON) * scale_d
    return y_nd if bias_d is None else y_nd + bias_d


def by_differences(x_nd, scale_d, bias_d, dy_nd, norm="layer_norm"):
    """Returns the closed form, and the gradients of its product with dy_nd."""
    given = [None if x is None else np.float64(x) for x in (x_nd, scale_d, bias_d)]
    found = [closed_form(*given, norm)]
    for x in given:
        if x is None:
            continue
        gradient = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            was, sums = x[place], []
            for x[place] in (was + 1e-5, was - 1e-5):
                sums.append(np.sum(closed_form(*given, norm) * dy_nd))
            x[place], gradient[place] = was, (sums[0] - sums[1]) / 2e-5
        found.append(gradient)
    return found


def by_vjp(x_nd, scale_d, bias_d, dy_nd, norm="layer_norm"):
    def normed(x_nd, scale_d, bias_d):
        if norm == "rms_norm":
            return rms_norm(x_nd, scale_d, EPSILON)
        return layer_norm(x_nd, scale_d, bias_d, EPSILON)

    y_nd, pull = jax.vjp(normed, x_nd, scale_d, bias_d)
    return [x for x in (y_nd, *pull(jnp.asarray(dy_nd, y_nd.dtype))) if x is not None]


@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 2, 8)])
@pytest.mark.parametrize(
    ("norm", "biased"), [("layer_norm", True), ("layer_norm", False), ("rms_norm", False)]
)
def test_values_and_gradients_are_those_of_the_closed_form(shape, norm, biased):
    x_nd, scale_d, bias_d, dy_nd = example(*shape)
    given = (x_nd, scale_d, bias_d if biased else None, dy_nd)
    found, expected = jax.jit(partial(by_vjp, norm=norm))(*given), by_differences(*given, norm)
    assert len(found) == len(expected) == 3 + biased
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_rounded_once():
    x_nd, scale_d, bias_d, dy_nd = example(16, 32)
    x_nd, dy_nd = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (x_nd, dy_nd))
    expected = by_differences(x_nd, scale_d, bias_d, dy_nd)
    found = by_vjp(jnp.asarray(x_nd, jnp.bfloat16), scale_d, bias_d, dy_nd)
    assert [x.dtype for x in found] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2**-8, atol=2e-4)


def test_several_models_at_once_have_the_same_gradients():
    x_nd, scale_d, bias_d, dy_nd = example(4, 6, 8)
    scale_ld, bias_ld = (np.stack([x + i for i in range(4)]) for x in (scale_d, bias_d))
    found = jax.vmap(by_vjp)(x_nd, scale_ld, bias_ld, dy_nd)
    apart = [by_vjp(*given) for given in zip(x_nd, scale_ld, bias_ld, dy_nd, strict=True)]
    for a, b in zip(found, map(jnp.stack, zip(*apart, strict=True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(("use_bias", "shape"), [(True, (2, 3)), (False, (2, 3)), (True, (1, 1))])
def test_its_parameters_are_those_of_other_devices(monkeypatch, norm, use_bias, shape):
    config = TransformerConfig(norm=norm, use_bias=use_bias)
    x_btd = jnp.asarray(example(*shape, 16)[0])
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(layers, "target", lambda device=device: device)
        norm = layers.norm(config, jnp.bfloat16)
        found.append((norm.init(jax.random.key(0), x_btd), norm))
    (on_cpu, plain), (on_cuda, fused) = found
    assert type(plain) is not type(fused)
    assert jax.tree.structure(on_cpu) == jax.tree.structure(on_cuda)  # boxes say how axes are split
    np.testing.assert_allclose(
        *(np.asarray(norm.apply(on_cpu, x_btd), np.float32) for norm in (plain, fused)), atol=2e-2
    )
