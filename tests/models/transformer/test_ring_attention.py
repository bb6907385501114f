import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.costs.hlo import read_work
from lm_jax.models.transformer.attention import PLAIN, Scoring, Tokens, attend, attention_mask
from lm_jax.models.transformer.ring_attention import ring_applies, ring_attend, time_axis
from lm_jax.parallel import sharding

BATCH, TIME, SOURCE, HEADS, WIDTH = 4, 16, 24, 4, 8
EIGHT, FOUR, TWO = "sequence:8", "data:2,sequence:4", "fsdp:2,tensor:2,sequence:2"


def arrays(keys, groups, biased):
    rng = np.random.default_rng(0)
    q_bthk = rng.normal(size=(BATCH, TIME, HEADS, WIDTH))
    k_bsgk, v_bsgk = rng.normal(size=(2, BATCH, keys, groups, WIDTH))
    bias_hts = 3 * rng.normal(size=(HEADS, TIME, keys)) if biased else None
    return tuple(None if x is None else jnp.float32(x) for x in (q_bthk, k_bsgk, v_bsgk, bias_hts))


def tokens(kind):
    """Queries and keys that see each other in a way."""
    rng = np.random.default_rng(1)
    index_bt = jnp.broadcast_to(jnp.arange(TIME), (BATCH, TIME))
    segments_bt = jnp.int32(np.sort(rng.integers(1, 4, (BATCH, TIME))))
    prefix_bt = jnp.int32(rng.integers(0, 2, (BATCH, TIME)))
    # Segments 3 and 4 have no source, so their queries attend to nothing.
    source_bs = jnp.int32(np.sort(rng.integers(1, 3, (BATCH, SOURCE))))
    of_kind = {
        "all": Tokens(),
        "causal": Tokens(index_bt),
        "packed": Tokens(index_bt, segments_bt),
        "prefix": Tokens(index_bt, segments_bt, prefix_bt),
        "encoder": Tokens(None, segments_bt, place_bt=index_bt),
        "windowed": Tokens(index_bt, segments_bt, place_bt=index_bt),
    }
    if kind == "across":
        return Tokens(None, segments_bt), Tokens(None, source_bs)
    return of_kind[kind], of_kind[kind]


def plain(scoring, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys, window):
    mask_bts = attention_mask(queries, keys, window)
    return attend(q_bthk, k_bsgk, v_bsgk, mask_bts, bias_hts, scoring)


def with_gradients(attention, given, queries, keys, direction, scoring=PLAIN, window=None):
    def along(*given):
        y_bthk = attention(scoring, *given, queries, keys, window)
        return jnp.sum(y_bthk * direction), y_bthk

    differentiable = tuple(i for i, x in enumerate(given) if x is not None)
    (_, y_bthk), gradients = jax.jit(
        jax.value_and_grad(along, argnums=differentiable, has_aux=True)
    )(*given)
    return y_bthk, *gradients


@pytest.mark.parametrize(
    ("kind", "groups", "biased", "mesh", "scoring", "window"),
    [
        ("all", 4, False, FOUR, PLAIN, None),
        ("causal", 1, False, EIGHT, PLAIN, None),
        ("causal", 2, True, TWO, Scoring(0.5, 2.0), None),
        ("windowed", 4, False, FOUR, PLAIN, 5),
        ("prefix", 2, False, TWO, PLAIN, None),
        ("encoder", 4, True, FOUR, PLAIN, 3),
        ("across", 2, False, EIGHT, PLAIN, None),
    ],
)
def test_a_ring_computes_what_attention_does_and_its_gradients(
    kind, groups, biased, mesh, scoring, window
):
    queries, keys = tokens(kind)
    given = arrays(SOURCE if kind == "across" else TIME, groups, biased)
    direction = jnp.float32(np.random.default_rng(2).normal(size=given[0].shape))
    expected = with_gradients(plain, given, queries, keys, direction, scoring, window)
    with sharding.on_mesh(sharding.make_mesh(mesh, jax.devices()[:8])):
        found = with_gradients(ring_attend, given, queries, keys, direction, scoring, window)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_ring_sends_blocks_and_gathers_nothing():
    queries, keys = tokens("packed")
    given = arrays(TIME, HEADS, False)
    mesh = sharding.make_mesh("data:2,sequence:4", jax.devices()[:8])
    with sharding.on_mesh(mesh):
        placed = jax.device_put(
            (given, queries, keys),
            jax.NamedSharding(mesh, jax.P("data", "sequence")),
        )
        ring = lambda given, *tokens: ring_attend(PLAIN, *given, *tokens)  # noqa: E731
        built = jax.jit(ring).lower(*placed).compile()
    sent = read_work(built.as_text()).collectives
    assert {collective.kind for collective in sent} == {"collective-permute"}
    # Three times a quarter of the keys, of the values, of their times and of their segments.
    rows = BATCH // 2 * TIME // 4
    expected = 3 * rows * 4 * (2 * HEADS * WIDTH + 2)
    assert sum(c.bytes * times for c, times in sent.items()) == expected


def test_time_is_whole_where_no_mesh_splits_it():
    assert time_axis() is None and not ring_applies(16)
    with sharding.on_mesh(sharding.make_mesh("fsdp:8", jax.devices()[:8])):
        assert time_axis() is None and not ring_applies(16)
    with sharding.on_mesh(sharding.make_mesh("fsdp:2,sequence:4", jax.devices()[:8])):
        assert time_axis() == "sequence"
        assert ring_applies(16, 8) and not ring_applies(16, 6)


def test_products_of_bfloat16_are_summed_in_float32():
    queries, keys = tokens("causal")
    given = tuple(x if x is None else x.astype(jnp.bfloat16) for x in arrays(TIME, 2, False))
    exact = tuple(x if x is None else x.astype(jnp.float32) for x in given)
    direction = jnp.ones((), jnp.float32)
    expected = with_gradients(plain, exact, queries, keys, direction)
    with sharding.on_mesh(sharding.make_mesh("data:2,sequence:4", jax.devices()[:8])):
        found = with_gradients(ring_attend, given, queries, keys, direction)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.03)
