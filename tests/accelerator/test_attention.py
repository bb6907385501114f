"""cuDNN's attention beside the plain one, in bfloat16, on the GPU itself."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config.presets import preset
from lm_jax.models import build_model
from lm_jax.models.transformer.attention import attend, same_segment, visible
from lm_jax.models.transformer.flash_attention import attend_fused

HALF = 2.0**-8  # bfloat16 keeps 8 bits


def arrays(time, heads, groups, width, batch=2):
    shapes = [(batch, time, heads, width)] + [(batch, time, groups, width)] * 2
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)
    ]


def segments(time, batch=2):
    """Documents of unequal length, and padding at the end of the first row."""
    segments_bt = np.sort(np.random.default_rng(0).integers(1, 6, (batch, time)), axis=1)
    segments_bt[0, -time // 8 :] = 0
    return jnp.asarray(segments_bt, jnp.int32)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("time", [128, 1024])
@pytest.mark.parametrize(("heads", "groups", "width"), [(12, 12, 64), (8, 2, 128)])
def test_the_kernel_and_its_gradient_are_those_of_float32_but_for_rounding(
    time, heads, groups, width, packed
):
    given = arrays(time, heads, groups, width)
    index = jnp.arange(time)[None]
    visible_bts, mask_bts = visible(index, index), None
    if packed:
        visible_bts = mask_bts = visible_bts & same_segment(segments(time), segments(time))

    def results(f, arguments):
        def total(arguments):
            y_bthk = f(*arguments).astype(jnp.float32)
            return jnp.sum(jnp.sin(y_bthk)), y_bthk

        gradients, y_bthk = jax.jit(jax.grad(total, has_aux=True))(arguments)
        return [np.asarray(x, np.float32) for x in (y_bthk, *gradients)]

    def plain(q, k, v):
        return attend(q, k, v, visible_bts, causal=True)

    def fused(q, k, v):
        return attend_fused(q, k, v, mask_bts, causal=True)

    with jax.default_matmul_precision("highest"):
        exact = results(plain, [x.astype(jnp.float32) for x in given])
    for found, expected in zip(results(fused, given), exact, strict=True):
        assert np.abs(found - expected).max() < 4 * HALF * np.abs(expected).max()


def test_auto_is_the_kernel_in_a_step_of_gpt2_and_gives_its_loss():
    config = dataclasses.replace(preset("gpt2_small"), num_layers=2, attention="auto")
    rng = np.random.default_rng(0)
    batch = {
        name: jnp.asarray(rng.integers(0, config.vocab_size, (2, 1024)), jnp.int32)
        for name in ("inputs", "targets")
    }
    batch["segments"] = segments(1024)
    variables = nn.unbox(build_model(config, jnp.bfloat16).init(jax.random.key(0), batch))

    def compiled(attention):
        model = build_model(dataclasses.replace(config, attention=attention), jnp.bfloat16)

        def mean(variables):
            return jnp.mean(model.loss(variables, batch, train=True)[0].nats)

        return jax.jit(jax.value_and_grad(mean)).lower(variables).compile()

    fused, plain = compiled("auto"), compiled("xla")
    assert "__cudnn$fmha" in fused.as_text()
    assert "__cudnn$fmha" not in plain.as_text()
    # Scores of 12 heads of 1,024 x 1,024 are kept by the plain path in every layer.
    saved = plain.memory_analysis().temp_size_in_bytes - fused.memory_analysis().temp_size_in_bytes
    assert saved > 2 * 12 * 1024 * 1024 * 2
    (loss, gradients), (expected, expected_gradients) = fused(variables), plain(variables)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    for found, wanted in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        assert jnp.linalg.norm(found - wanted) < 0.05 * jnp.linalg.norm(wanted)
