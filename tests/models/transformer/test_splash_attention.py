"""The kernel for TPUs, run step by step on a CPU, beside plain attention."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.costs.hlo import read_work
from lm_jax.costs.jaxpr_flops import product_flops
from lm_jax.costs.model_flops import training_flops
from lm_jax.models import build_model
from lm_jax.models.transformer import flash_attention
from lm_jax.models.transformer.attention import Scoring, Tokens, attend, attention_mask
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.remat import keeps_attention, keeps_products
from lm_jax.models.transformer.splash_attention import serves, splash_attend
from lm_jax.parallel import sharding

BATCH, TIME, HEADS, GROUPS, WIDTH = 2, 128, 4, 2, 16
SHAPES = ((BATCH, TIME, HEADS, WIDTH), *[(BATCH, TIME, GROUPS, WIDTH)] * 2)


def given(segmented, causal=True, window=None):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in SHAPES]
    time_bt = jnp.broadcast_to(jnp.arange(TIME), (BATCH, TIME))
    segments_bt = jnp.asarray(np.sort(rng.integers(0, 3, (BATCH, TIME)), axis=1), jnp.int32)
    tokens = Tokens(
        time_bt if causal else None,
        segments_bt if segmented else None,
        None,
        time_bt if window else None,
    )
    return arrays, tokens


def weighted_sum(attend_these, *arrays):
    y_bthk = attend_these(*arrays)
    return jnp.sum(y_bthk * jnp.arange(WIDTH)), y_bthk


@pytest.mark.parametrize(
    ("causal", "window", "segmented", "soft_cap"),
    [
        (True, 40, True, 20.0),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (True, None, False, 0.0),
                (True, None, True, 0.0),
                (False, None, True, 0.0),
                (False, 40, False, 0.0),
            )
        ],
    ],
)
def test_outputs_and_gradients_are_those_of_plain_attention(causal, window, segmented, soft_cap):
    arrays, tokens = given(segmented, causal, window)
    scoring = Scoring(soft_cap=soft_cap)
    mask_bts = attention_mask(tokens, tokens, window)
    plain = partial(attend, mask_bts=mask_bts, scoring=scoring)

    def splash(*arrays):
        return splash_attend(
            scoring, *arrays, tokens, tokens, causal=causal, window=window, interpret=True
        )

    gradients, outputs = [], []
    for function in (plain, splash):
        compute = jax.jit(jax.grad(partial(weighted_sum, function), (0, 1, 2), has_aux=True))
        found, y_bthk = compute(*arrays)
        gradients.append(found)
        outputs.append(y_bthk)
    np.testing.assert_allclose(*outputs, rtol=2e-5, atol=2e-6)
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(ours).max()))


def test_rows_and_heads_are_attended_to_where_they_lie():
    arrays, tokens = given(segmented=True)
    mesh = sharding.make_mesh("data:2,tensor:2", jax.devices()[:4])
    attend_them = partial(splash_attend, Scoring(), causal=True, interpret=True)
    alone = attend(*arrays, attention_mask(tokens, tokens), None, Scoring())
    with sharding.on_mesh(mesh):
        y_bthk = jax.jit(attend_them)(*arrays, tokens, tokens)
        q_bthk, k_bsgk, _ = arrays
        assert serves(q_bthk, k_bsgk, None, tokens)
        assert not serves(q_bthk[:1], k_bsgk[:1], None, tokens)  # one row on two devices
        assert not serves(q_bthk, k_bsgk[:, :, :1], None, tokens)  # one head on two
        assert not serves(q_bthk[:, :100], k_bsgk, None, tokens)
        assert not serves(q_bthk, k_bsgk, None, tokens._replace(prefix_bt=tokens.index_bt))
    np.testing.assert_allclose(y_bthk, alone, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_its_products_are_counted(causal):
    arrays, tokens = given(segmented=True)
    attend_them = partial(splash_attend, Scoring(), causal=causal, interpret=True)
    jaxpr = jax.make_jaxpr(attend_them)(*arrays, tokens, tokens).jaxpr
    scores = 2 * BATCH * HEADS * TIME * TIME * WIDTH
    forward = 2 * scores // (2 if causal else 1)
    assert product_flops(jaxpr) == forward
    differentiated = [True] * 3 + [False] * (len(jaxpr.invars) - 3)
    assert product_flops(jaxpr, differentiated) == 3 * forward


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_packed_model_with_windows_is_made_of_it(monkeypatch, scan_layers):
    monkeypatch.setattr(flash_attention, "target", lambda: "tpu")
    config = TransformerConfig(
        vocab_size=64,
        context_length=256,
        num_layers=2,
        d_model=32,
        num_heads=4,
        sliding_window=100,
        global_every=2,
        scan_layers=scan_layers,
    )
    batch = dict.fromkeys(("inputs", "targets", "segments"), jnp.zeros((2, 256), jnp.int32))
    batch["weights"] = jnp.ones((2, 256))
    counted = {
        kind: training_flops(
            build_model(dataclasses.replace(config, attention=kind), jnp.bfloat16), batch
        )
        for kind in ("auto", "xla")
    }
    scores = 3 * 4 * 2 * 2 * 256 * 256 * 32  # of both layers, three times as training does
    # Plain attention spares a quarter of the scores of a causal mask, this kernel half of them.
    assert counted["xla"] - counted["auto"] == scores // 4


def test_the_forward_kernel_runs_again_under_full_remat_only():
    arrays, tokens = given(segmented=True)
    splash = partial(splash_attend, Scoring(), causal=True, interpret=True)

    def products(block):
        gradient = jax.grad(lambda *arrays: jnp.sum(jnp.sin(block(*arrays, tokens, tokens))))
        return read_work(jax.jit(gradient).lower(*arrays).compile().as_text()).product_flops

    once = products(splash)
    assert products(jax.checkpoint(splash, policy=keeps_attention)) == once
    assert products(jax.checkpoint(splash, policy=keeps_products)) == once
    assert products(jax.checkpoint(splash)) > once
