import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.recurrent.language_model import RecurrentConfig, recurrent
from lm_jax.models.recurrent.layer import CELLS, Sequence, recur, recur_states
from lm_jax.parallel import sharding
from lm_jax.training.gradients import make_gradients
from lm_jax.training.state import init_state
from lm_jax.training.train_step import jit_train_steps, make_train_step
from tests.conftest import slow_but
from tests.models.jitted import jitted

OPTIONS = {
    "plain": {},
    "layer_norm": {"layer_norm": True},
    "tied_embeddings": {"tie_embeddings": True},
    "narrow_embedding": {"d_embedding": 5},
}


def tiny(**fields) -> RecurrentConfig:
    shape = {"vocab_size": 31, "context_length": 16, "num_layers": 2, "d_hidden": 12}
    return RecurrentConfig(**shape | fields)


def tokens(batch_size, time, vocab=31, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, vocab, (batch_size, time)), jnp.int32)


def built(config, batch):
    """The model, and variables with every leaf random, so that no term hides behind a zero."""
    model = jitted(recurrent(config, jnp.float32))
    shapes = dict(nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch)))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    variables["params"] = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.4), x.dtype), shapes["params"]
    )
    return model, variables


def fresh(config, batch):
    """The model, and variables as they are made."""
    model = jitted(recurrent(config, jnp.float32))
    return model, nn.unbox(model.init(jax.random.key(0), batch))


def random_sequence(cell, layer_norm, dtype):
    """Parameters of the cell, its kernel, and a sequence with resets and dropout."""
    t, b, d = 7, 3, 5
    g = CELLS[cell].gates * d
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    params = {"recurrent_bias": normal(d)}
    if layer_norm:
        params |= {"recurrent_scale": normal(g), "memory_scale": normal(d)}
        params |= {"memory_bias": normal(d)}
    used = {"rnn": {"recurrent_scale"}, "gru": {"recurrent_scale", "recurrent_bias"}}
    used = used.get(cell, set(params) - {"recurrent_bias"})
    keep_tb = jnp.asarray(rng.random((t, b)) < 0.7, dtype)
    dropout_db = jnp.asarray(rng.random((d, b)) < 0.7, dtype) / 0.7
    initial = tuple(normal(d, b) for _ in range(CELLS[cell].states))
    sequence = Sequence(normal(t, b, g), initial, keep_tb, dropout_db)
    return {name: params[name] for name in params if name in used}, normal(d, g), sequence


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_backward_pass_equals_autodiff_through_a_plain_scan(cell, layer_norm):
    pointwise = CELLS[cell].pointwise

    def plain(params, kernel_dg, sequence):
        def advance(state, step):
            x_bg, keep_b = step
            state = tuple(part * keep_b for part in state)
            r_gb = kernel_dg.T @ (state[0] * sequence.dropout_db)
            state = pointwise(params, x_bg.T, r_gb, state)
            return state, state[0].T

        steps = (sequence.x_tbg, sequence.keep_tb)
        final, h_tbd = jax.lax.scan(advance, sequence.initial, steps)
        return h_tbd, final

    with jax.enable_x64(True):
        params, kernel_dg, sequence = random_sequence(cell, layer_norm, jnp.float64)
        varied = (params, kernel_dg, sequence.x_tbg, sequence.initial)

        def value(function):
            def total(params, kernel_dg, x_tbg, initial):
                rest = sequence._replace(x_tbg=x_tbg, initial=initial)
                h_tbd, final = function(params, kernel_dg, rest)
                return jnp.sum(jnp.sin(3 * h_tbd)) + sum(jnp.sum(part**2) for part in final)

            return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(*varied)

        ours = value(lambda *args: recur(pointwise, *args))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, value(plain))


@pytest.mark.parametrize("cell", CELLS)
def test_states_set_and_read_at_every_step_have_the_gradients_of_a_plain_scan(cell):
    pointwise = CELLS[cell].pointwise

    def plain(params, kernel_dg, sequence):
        def advance(state, step):
            x_bg, keep_b, entering = step
            pairs = zip(state, entering, strict=True)
            state = tuple(part * keep_b + set_to.T for part, set_to in pairs)
            r_gb = kernel_dg.T @ (state[0] * sequence.dropout_db)
            state = pointwise(params, x_bg.T, r_gb, state)
            return state, tuple(part.T for part in state)

        steps = (sequence.x_tbg, sequence.keep_tb, sequence.entering)
        return jax.lax.scan(advance, sequence.initial, steps)[1]

    with jax.enable_x64(True):
        params, kernel_dg, sequence = random_sequence(cell, False, jnp.float64)
        rng = np.random.default_rng(1)
        entering = tuple(jnp.asarray(rng.normal(size=(7, 3, 5))) for _ in sequence.initial)

        def value(function):
            def total(params, kernel_dg, x_tbg, initial, entering):
                rest = sequence._replace(x_tbg=x_tbg, initial=initial, entering=entering)
                states = function(params, kernel_dg, rest)
                return sum(jnp.sum(jnp.sin(3 * part_tbd)) for part_tbd in states)

            varied = (params, kernel_dg, sequence.x_tbg, sequence.initial, entering)
            return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4)))(*varied)

        ours = value(lambda *args: recur_states(pointwise, *args))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, value(plain))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_layer_norm_follows_its_paper(cell):
    """Ba et al. 2016, equations 20 to 22 (lstm) and 26 to 28 (gru), in float64."""
    config = tiny(cell=cell, num_layers=1, layer_norm=True)
    batch = {"inputs": tokens(1, 16)}
    model, variables = built(config, batch)
    logits, _ = model.apply(variables, batch, train=False)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    w, width = p["layer_0"], config.d_hidden
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    norm = lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-5)  # noqa: E731
    h = c = np.zeros(width)
    for token, expected in zip(np.asarray(batch["inputs"])[0], np.asarray(logits)[0], strict=True):
        x, r = p["embedding"][token] @ w["input"]["kernel"], h @ w["recurrent"]["kernel"]
        if cell == "lstm":
            gates = w["input_scale"] * norm(x) + w["recurrent_scale"] * norm(r) + w["bias"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(w["memory_scale"] * norm(c) + w["memory_bias"])
        else:
            gates, candidate = slice(0, 2 * width), slice(2 * width, None)
            both = w["input_scale"][gates] * norm(x[gates]) + w["bias"][gates]
            both = both + w["recurrent_scale"][gates] * norm(r[gates])
            reset, z = np.split(sigmoid(both), 2)
            inner = w["recurrent_scale"][candidate] * norm(r[candidate]) + w["recurrent_bias"]
            outer = w["input_scale"][candidate] * norm(x[candidate]) + w["bias"][candidate]
            h = (1 - z) * np.tanh(outer + reset * inner) + z * h
        np.testing.assert_allclose(p["output"] @ h + p["output_bias"], expected, atol=1e-5)


@pytest.mark.parametrize("option", slow_but(OPTIONS, "layer_norm", "narrow_embedding"))
@pytest.mark.parametrize("cell", CELLS)
def test_step_repeated_equals_apply(cell, option):
    batch = {"inputs": tokens(3, 16)}
    model, variables = built(tiny(cell=cell, **OPTIONS[option]), batch)
    logits_btv, _ = model.apply(variables, batch, train=False)
    carry, step = model.start(variables, 3, 16), jax.jit(model.step)
    for t in range(16):
        logits_bv, carry = step(variables, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(logits_bv, logits_btv[:, t], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_packed_document_sees_nothing_of_its_neighbours(cell):
    first, second = tokens(2, 6, seed=1), tokens(2, 10, seed=2)
    packed = {
        "inputs": jnp.concatenate([first, second], axis=1),
        "segments": jnp.asarray([[1] * 6 + [2] * 10] * 2),
        "positions": jnp.asarray([[*range(6), *range(10)]] * 2),
    }
    model, variables = built(tiny(cell=cell), packed)
    together, _ = model.apply(variables, packed, train=False)
    for document, part in ((first, together[:, :6]), (second, together[:, 6:])):
        alone, _ = model.apply(variables, {"inputs": document}, train=False)
        np.testing.assert_allclose(part, alone, atol=1e-6)
    changed = packed | {"inputs": packed["inputs"].at[:, 0].add(1) % 31}
    after, _ = model.apply(variables, changed, train=False)
    np.testing.assert_array_equal(together[:, 6:], after[:, 6:])
    leaking, _ = model.apply(variables, {"inputs": packed["inputs"]}, train=False)
    assert jnp.abs(leaking[:, 6:] - together[:, 6:]).max() > 1e-3

    @jax.jit
    @jax.grad
    def gradient(params, batch):
        logits, _ = model.apply({"params": params}, batch, train=False)
        return jnp.sum(jnp.sin(logits[:, 6:]))

    gradients = [gradient(variables["params"], batch) for batch in (packed, changed)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_two_windows_that_carry_the_state_equal_one_of_both(cell):
    whole = {"inputs": tokens(3, 16)}
    left, right = ({"inputs": whole["inputs"][:, part]} for part in (slice(8), slice(8, 16)))
    model, variables = built(tiny(cell=cell, carry_state=True), left)
    expected, stats = model.apply(variables, whole, train=True)
    first, between = model.apply(variables, left, train=True)
    second, after = model.apply({**variables, **between}, right, train=True)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), expected, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, stats)

    opens = {"inputs": right["inputs"], "segments": jnp.full((3, 8), 2)}
    continues = opens | {"segments": jnp.ones((3, 8), jnp.int32)}
    for batch, same_as in (
        (opens, model.apply(variables, right, train=True)[0]),
        (continues, second),
    ):
        logits, _ = model.apply({**variables, **between}, batch, train=True)
        np.testing.assert_allclose(logits, same_as, atol=1e-6)


def test_evaluation_neither_reads_nor_changes_the_carried_state():
    batch = {"inputs": tokens(3, 8)}
    model, variables = built(tiny(carry_state=True), batch)
    fresh, _ = model.apply(variables, batch, train=False)
    _, carried = model.apply(variables, batch, train=True)
    again, stats = model.apply({**variables, **carried}, batch, train=False)
    np.testing.assert_array_equal(fresh, again)
    jax.tree.map(np.testing.assert_array_equal, stats, carried)
    other_size, _ = model.apply(variables, {"inputs": tokens(5, 8)}, train=False)
    assert other_size.shape == (5, 8, 31)
    with pytest.raises(UserError, match="a batch of 5 sequences cannot continue"):
        model.apply(variables, {"inputs": tokens(5, 8)}, train=True)


def trained(config, mesh, windows, optimizer, calls):
    """The state and the losses of training on windows of tokens [steps, batch, time + 1]."""
    model, schedule = recurrent(config), optax.constant_schedule(1.0)
    batches = {"inputs": windows[..., :-1], "targets": windows[..., 1:]}
    batches["weights"] = np.ones(windows[..., 1:].shape, np.float32)
    example = {name: value[0] for name, value in batches.items()}
    state = init_state(model, optimizer, example, mesh, seed=0)
    steps = jit_train_steps(make_train_step(make_gradients(model.loss), optimizer, schedule))
    placed = sharding.place_batch(batches, sharding.batch_sharding(mesh, leading_axes=1))
    with sharding.on_mesh(mesh):
        for _ in range(calls):
            state, metrics = steps(state, placed)
    return state, metrics["loss"]


def test_the_training_loop_carries_the_state():
    config = tiny(carry_state=True, layer_norm=True, dropout_rate=0.1)
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    row = np.tile(np.arange(16), 12 * 8 // 16 + 1)[: 12 * 8 + 1]
    windows = np.stack([np.stack([row[8 * i : 8 * i + 9]] * 4) for i in range(12)]).astype("i4")
    state, losses = trained(config, mesh, windows, optax.adam(3e-2), calls=4)
    assert losses[-1] < 0.5 * np.log(31)
    assert jnp.abs(state.stats["carry"][0][0]).min() > 0


def test_training_does_not_depend_on_the_mesh():
    windows = np.asarray(tokens(3 * 8, 9)).reshape(3, 8, 9)
    config = tiny(cell="gru", carry_state=True)
    one = sharding.make_mesh("data:1", jax.devices()[:1])
    eight = sharding.make_mesh("data:2,fsdp:2,tensor:2", jax.devices()[:8])
    (state, losses), (other, others) = (
        trained(config, mesh, windows, optax.sgd(0.1), calls=1) for mesh in (one, eight)
    )
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        (state.params, state.stats),
        (other.params, other.stats),
    )


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_one_dropout_mask_serves_all_steps_of_a_sequence(rate):
    config = tiny(cell="rnn", num_layers=1, dropout_rate=rate, d_embedding=20)
    batch = {"inputs": jnp.full((4, 16), 3)}
    model, variables = built(config, batch)
    recurrent_kernel = variables["params"]["layer_0"]["recurrent"]
    recurrent_kernel["kernel"] = jnp.zeros_like(recurrent_kernel["kernel"])
    # Without recurrence and with one token throughout, only a mask could tell steps apart.
    logits, _ = model.apply(variables, batch, train=True, key=jax.random.key(0))
    np.testing.assert_allclose(logits, jnp.broadcast_to(logits[:, :1], logits.shape), atol=1e-6)
    between_rows = jnp.abs(logits[0] - logits[1]).max()
    assert between_rows > 1e-2 if rate else between_rows == 0


def test_one_recurrent_dropout_mask_serves_all_steps_of_a_sequence():
    width, rate = 12, 0.5
    config = tiny(vocab_size=width, cell="rnn", num_layers=1, recurrent_dropout_rate=rate)
    batch = {"inputs": jnp.zeros((4, 6), jnp.int32)}
    model, variables = built(config, batch)
    layer = variables["params"]["layer_0"]
    # Each unit feeds itself alone, and the logits are the units.
    layer["recurrent"]["kernel"] = 0.4 * jnp.eye(width)
    layer["input"]["kernel"] = jnp.zeros((width, width))
    layer["bias"] = jnp.linspace(0.5, 1.0, width)
    variables["params"] |= {"output": jnp.eye(width), "output_bias": jnp.zeros(width)}
    logits, _ = model.apply(variables, batch, train=True, key=jax.random.key(0))
    dropped = kept = np.zeros(width)
    is_kept = np.abs(logits[:, 1] - logits[:, 0]) > 1e-3
    assert 0.2 < is_kept.mean() < 0.8
    for t in range(6):
        dropped = np.tanh(np.asarray(layer["bias"]))
        kept = np.tanh(np.asarray(layer["bias"]) + 0.4 / (1 - rate) * kept)
        np.testing.assert_allclose(logits[:, t], np.where(is_kept, kept, dropped), atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "option"),
    slow_but(
        [("lstm", "plain"), ("lstm", "layer_norm"), ("rnn", "tied_embeddings"), ("gru", "plain")],
        ("lstm", "plain"),
        ("rnn", "tied_embeddings"),
    ),
)
def test_a_new_model_guesses_uniformly(cell, option):
    config = tiny(vocab_size=4064, d_hidden=128, cell=cell, **OPTIONS[option])
    batch = {"inputs": tokens(4, 32, 4064), "targets": tokens(4, 32, 4064, seed=1)}
    model, variables = fresh(config, batch)
    losses, _ = jax.jit(model.loss, static_argnames="train")(variables, batch, train=False)
    loss = float(losses.nats.mean())
    assert loss == pytest.approx(np.log(4064), rel=0.02)


def test_a_new_lstm_remembers_and_its_recurrent_kernels_are_orthogonal():
    _, variables = fresh(tiny(), {"inputs": tokens(1, 4)})
    layer = variables["params"]["layer_1"]
    np.testing.assert_array_equal(layer["bias"], [0.0] * 12 + [1.0] * 12 + [0.0] * 24)
    for gate in np.split(np.asarray(layer["recurrent"]["kernel"]), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(12), atol=1e-5)


def test_bfloat16_products_stay_near_those_of_float32():
    batch = {"inputs": tokens(3, 16)}
    model, variables = built(tiny(layer_norm=True), batch)
    exact, _ = model.apply(variables, batch, train=False)
    apply = jax.jit(recurrent(tiny(layer_norm=True), jnp.bfloat16).apply, static_argnames="train")
    rounded, _ = apply(variables, batch, train=False)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05)


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_names_its_axes(cell):
    model = recurrent(tiny(cell=cell, layer_norm=True))
    boxed = jax.eval_shape(model.init, jax.random.key(0), {"inputs": tokens(1, 4)})
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for leaf in jax.tree.leaves(boxed["params"], is_leaf=is_box):
        assert is_box(leaf) and len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= {name for name, _ in sharding.RULES}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "mgu"}, "model.cell is 'mgu'; expected one of rnn, lstm, gru"),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"d_embedding": -1}, "model.d_embedding is -1"),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0"),
        ({"recurrent_dropout_rate": -0.1}, "model.recurrent_dropout_rate is -0.1"),
        ({"tie_embeddings": True, "d_embedding": 5}, "d_embedding 5 equal to model.d_hidden 12"),
        ({"vocab_size": 0}, "vocab_size is 0"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(tiny(**fields), jnp.float32)
