"""Recurrent layers: cells, and one scan over time with a custom backward pass.

Axes: t time, b batch, d hidden width, g pre-activations of all gates.

Arrays are time-major outside the scan, and have features before batch inside it: the recurrent
product is then `kernel^T [g, d] @ h [d, b]`, which is 1.5 times as fast on a CPU as
`h [b, d] @ kernel [d, g]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.dense_product import times
from lm_jax.models.parameters import declared, declared_kernel

State = tuple[jax.Array, ...]  # the hidden state h, and the memory c of an LSTM
Params = dict[str, jax.Array]


class Cell(NamedTuple):
    """The properties of a recurrent cell."""

    gates: int  # pre-activations per hidden unit
    states: int
    norms: tuple[int, ...]  # gates per layer norm (Ba et al. 2016, eqs. 20 to 28)
    pointwise: Callable[[Params, jax.Array, jax.Array, State], State]
    """(params, x_gb of the input, r_gb of the previous h, previous state) -> state."""

    forget_gate: int | None = None  # whose bias starts at 1 (Gers et al. 2000)
    recurrent_bias: bool = False  # the recurrent product has a bias of its own
    normalizes_memory: bool = False  # with layer norm, c before the output


def _sigmoid(x: jax.Array) -> jax.Array:
    """Returns 1 / (1 + exp(-x)) by tanh, which XLA computes several times as fast on a CPU."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _rnn(params: Params, x_gb: jax.Array, r_gb: jax.Array, state: State) -> State:
    """Computes h = tanh(W x + U h + b) (Elman 1990)."""
    return (jnp.tanh(x_gb + _recurrent_norm("rnn", params, r_gb)),)


def _lstm(params: Params, x_gb: jax.Array, r_gb: jax.Array, state: State) -> State:
    """Computes c = f c + i tanh(g), h = o tanh(c) (Hochreiter & Schmidhuber 1997; Gers 2000)."""
    gates = jnp.split(x_gb + _recurrent_norm("lstm", params, r_gb), 4)
    i_db, f_db, o_db = (_sigmoid(gates[index]) for index in (0, 1, 3))
    c_db = f_db * state[1] + i_db * jnp.tanh(gates[2])
    if "memory_scale" not in params:
        return o_db * jnp.tanh(c_db), c_db
    normal_db = params["memory_scale"][:, None] * _standardize(c_db, axis=0)
    return o_db * jnp.tanh(normal_db + params["memory_bias"][:, None]), c_db


def _gru(params: Params, x_gb: jax.Array, r_gb: jax.Array, state: State) -> State:
    """Computes h = (1 - z) n + z h, n = tanh(W x + b + r (U h + b')) (Cho et al. 2014 v3)."""
    xr_db, xz_db, xn_db = jnp.split(x_gb, 3)
    rr_db, rz_db, rn_db = jnp.split(_recurrent_norm("gru", params, r_gb), 3)
    z_db = _sigmoid(xz_db + rz_db)
    reset_db = _sigmoid(xr_db + rr_db)
    n_db = jnp.tanh(xn_db + reset_db * (rn_db + params["recurrent_bias"][:, None]))
    return (n_db + z_db * (state[0] - n_db),)


# Gates are in PyTorch's order: i, f, g, o and r, z, n.
CELLS = {
    "rnn": Cell(1, 1, (1,), _rnn),
    "lstm": Cell(4, 2, (4,), _lstm, forget_gate=1, normalizes_memory=True),
    "gru": Cell(3, 1, (2, 1), _gru, recurrent_bias=True),
}


def _standardize(x: jax.Array, axis: int) -> jax.Array:
    """Returns x with mean 0 and variance 1 along an axis."""
    centred = x - x.mean(axis, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis, keepdims=True) + 1e-5)


def _standardize_gates(cell: Cell, x: jax.Array, axis: int) -> jax.Array:
    """Standardizes pre-activations over the groups of gates that share a layer norm."""
    width = x.shape[axis] // cell.gates
    ends = [width * sum(cell.norms[:count]) for count in range(1, len(cell.norms))]
    parts = jnp.split(x, ends, axis)
    return jnp.concatenate([_standardize(part, axis) for part in parts], axis)


def _recurrent_norm(name: str, params: Params, r_gb: jax.Array) -> jax.Array:
    if "recurrent_scale" not in params:
        return r_gb
    return params["recurrent_scale"][:, None] * _standardize_gates(CELLS[name], r_gb, axis=0)


class Sequence(NamedTuple):
    """The inputs of the recurrence besides its parameters."""

    x_tbg: jax.Array  # input projections with biases
    initial: State  # each [d, b]
    keep_tb: jax.Array | None  # 0 resets the state before a step; 1 elsewhere
    dropout_db: jax.Array | None  # factors on the previous h in the product, at all steps
    entering: State | None = None  # each [t, b, d], added to the state before a step


def recur(
    pointwise: Callable[..., State], params: Params, kernel_dg: jax.Array, sequence: Sequence
) -> tuple[jax.Array, State]:
    """Returns the hidden states h_tbd of all steps, and the final state, each [d, b].

    The state is float32 or wider; products use the kernel's dtype. Gradients reach `params`,
    `kernel_dg`, `x_tbg`, `initial` and `entering`.
    """
    (h_tbd,), final = _recur(pointwise, 1, params, kernel_dg, sequence)
    return h_tbd, final


def recur_states(
    pointwise: Callable[..., State], params: Params, kernel_dg: jax.Array, sequence: Sequence
) -> State:
    """Returns the whole state after each step, each [t, b, d], including an LSTM's memory."""
    return _recur(pointwise, len(sequence.initial), params, kernel_dg, sequence)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(pointwise, outputs: int, params: Params, kernel_dg: jax.Array, sequence: Sequence):
    """Returns the first `outputs` parts of the states, [t, b, d], and the final state, [d, b]."""
    return _recur_forward(pointwise, outputs, params, kernel_dg, sequence)[0]


def _recur_forward(pointwise, outputs, params, kernel_dg, sequence: Sequence):
    # Copied once, so that every step reads rows in order.
    kernel_gd = kernel_dg.T

    def advance(state: State, step):
        x_gb, keep_b, entering = step
        if keep_b is not None:
            state = tuple(keep_b * part for part in state)
        if entering is not None:
            state = tuple(map(jnp.add, state, entering))
        r_gb = _product(kernel_gd, _dropped(state[0], sequence.dropout_db))
        following = pointwise(params, x_gb, r_gb, state)
        return following, (following[:outputs], state, r_gb)

    x_tgb = sequence.x_tbg.swapaxes(1, 2)
    steps = (x_tgb, sequence.keep_tb, _swapped(sequence.entering))
    final, (after, before, r_tgb) = jax.lax.scan(advance, sequence.initial, steps)
    return (_swapped(after), final), (params, kernel_dg, sequence, x_tgb, before, r_tgb)


def _recur_backward(pointwise, outputs, saved, cotangents):
    """Back-propagates through time, with the kernel's gradient as one product after the scan.

    Autodiff would instead add a [d, g] product to an accumulator at every step.
    """
    params, kernel_dg, sequence, x_tgb, before, r_tgb = saved
    dafter, dfinal = cotangents

    def retreat(carry, step):
        dstate, dparams = carry
        dout, x_gb, keep_b, state, r_gb = step
        _, pull = jax.vjp(pointwise, params, x_gb, r_gb, state)
        dfollowing = (*map(jnp.add, dstate, dout), *dstate[outputs:])
        more, dx_gb, dr_gb, dstate = pull(dfollowing)
        dh_db = _product(kernel_dg, dr_gb)
        dstate = (dstate[0] + _dropped(dh_db, sequence.dropout_db), *dstate[1:])
        dentering = None if sequence.entering is None else dstate
        if keep_b is not None:
            dstate = tuple(keep_b * part for part in dstate)
        # If x and r enter as a sum, their cotangents are one array.
        dx_gb = None if dx_gb is dr_gb else dx_gb
        return (dstate, jax.tree.map(jnp.add, dparams, more)), (dx_gb, dr_gb.T, dentering)

    zero = jax.tree.map(jnp.zeros_like, params)
    steps = (_swapped(dafter), x_tgb, sequence.keep_tb, before, r_tgb)
    (dinitial, dparams), (dx_tgb, dr_tbg, dentering) = jax.lax.scan(
        retreat, (dfinal, zero), steps, reverse=True
    )
    dx_tbg = dr_tbg if dx_tgb is None else dx_tgb.swapaxes(1, 2)
    h_tdb = _dropped(before[0], sequence.dropout_db)
    dkernel_dg = jnp.einsum(
        "tdb,tbg->dg",
        h_tdb.astype(kernel_dg.dtype),
        dr_tbg.astype(kernel_dg.dtype),
        preferred_element_type=h_tdb.dtype,
    )
    dsequence = Sequence(dx_tbg, dinitial, None, None, _swapped(dentering))
    return dparams, dkernel_dg.astype(kernel_dg.dtype), dsequence


_recur.defvjp(_recur_forward, _recur_backward)


def _swapped(state: State | None) -> State | None:
    """Swaps the last two axes of each part: [t, b, d] and [t, d, b]."""
    return state if state is None else tuple(part.swapaxes(1, 2) for part in state)


def _product(kernel: jax.Array, x_xb: jax.Array) -> jax.Array:
    return jnp.matmul(kernel, x_xb.astype(kernel.dtype), preferred_element_type=x_xb.dtype)


def _dropped(h_db: jax.Array, dropout_db: jax.Array | None) -> jax.Array:
    return h_db if dropout_db is None else h_db * dropout_db


def side_by_side(parts: list[jax.Array], batch_axis: int) -> jax.Array:
    """Concatenates arrays along their features, which are not split over devices.

    If XLA's partitioner (jaxlib 0.10.2) may split them, it computes wrong gradients of the parts on
    a mesh with data, fsdp and tensor axes.
    """
    joined = jnp.concatenate(parts, axis=-1)
    axes: list[str | None] = [None] * joined.ndim
    axes[batch_axis] = "batch"
    return nn.with_logical_constraint(joined, tuple(axes))


def zero_state(cell: str, batch_size: int, d_hidden: int) -> State:
    """Returns the state before the first step, float32 [b, d] each."""
    return (jnp.zeros((batch_size, d_hidden), jnp.float32),) * CELLS[cell].states


def _orthogonal(gates: int) -> Callable:
    """Returns an initializer of [d, gates * d] with an independent orthogonal matrix per gate.

    Each is uniform, as a product of d random reflections (Stewart 1980, section 3). It avoids
    `jnp.linalg.qr`, which can hang on CPU with jaxlib 0.10.2.
    """

    def draw_gate(normal_dd: jax.Array) -> jax.Array:
        def reflect(q_dd: jax.Array, step):
            x_d, axis_d = step
            v_d = x_d + jnp.where(x_d @ axis_d < 0, -1, 1) * jnp.linalg.norm(x_d) * axis_d
            return q_dd - 2 / (v_d @ v_d) * jnp.outer(q_dd @ v_d, v_d), None

        identity_dd = jnp.eye(len(normal_dd), dtype=normal_dd.dtype)
        q_dd, _ = jax.lax.scan(reflect, identity_dd, (jnp.triu(normal_dd), identity_dd))
        return -q_dd * jnp.sign(jnp.diagonal(normal_dd))

    def draw(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        q_ndd = jax.vmap(draw_gate)(jax.random.normal(key, (gates, shape[0], shape[0]), dtype))
        return q_ndd.swapaxes(0, 1).reshape(shape)

    return draw


def _bias(cell: Cell) -> Callable:
    """Returns an initializer of zeros, with 1 for the forget gate."""

    def draw(key: jax.Array, shape: tuple[int], dtype: Any = jnp.float32) -> jax.Array:
        bias_g = jnp.zeros(shape, dtype)
        if cell.forget_gate is None:
            return bias_g
        width = shape[0] // cell.gates
        return bias_g.at[width * cell.forget_gate : width * (cell.forget_gate + 1)].set(1.0)

    return draw


class Kernel(nn.Module):
    """A matrix parameter of this shape, named `kernel`."""

    shape: tuple[int, int]
    initializer: Callable

    @nn.compact
    def __call__(self):
        boxed = declared_kernel(self.initializer, ("embed", "mlp"))
        return self.param("kernel", boxed, self.shape)


class RecurrentLayer(nn.Module):
    """Maps x_tbd and a state [b, d] to h_tbd and the final state [b, d], in one direction.

    Args of the call:
      index_tb: if given, x_tbd is a table [1, v, d] that the layer reads at this index; it projects
        the v rows and looks up the result.
      keep_tb: 0 resets the state before a step, 1 keeps it; None keeps it throughout.
      dropout_bd: factors on the previous h in the recurrent product, equal at all steps (Gal &
        Ghahramani 2016, eq. 7); None: no dropout.
      entering: each [t, b, d], added to the state before a step, after `keep_tb`; None: no change.
      all_states: return the state after each step, each [t, b, d], instead of the final one.
    """

    cell: str
    d_hidden: int
    layer_norm: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x_tbd,
        state: State,
        keep_tb=None,
        dropout_bd=None,
        index_tb=None,
        entering: State | None = None,
        all_states: bool = False,
    ):
        cell = CELLS[self.cell]
        width = cell.gates * self.d_hidden
        lecun, orthogonal = nn.initializers.lecun_normal(), _orthogonal(cell.gates)
        input_dg = Kernel((x_tbd.shape[-1], width), lecun, name="input")()
        kernel_dg = Kernel((self.d_hidden, width), orthogonal, name="recurrent")()
        bias_g = self._vector("bias", _bias(cell), cell.gates)
        # One product for all steps; the scan only computes the recurrence.
        x_tbg = times(jnp.asarray(x_tbd, self.dtype), jnp.asarray(input_dg, self.dtype))
        x_tbg = x_tbg.astype(state[0].dtype)
        if self.layer_norm:
            scale_g = self._vector("input_scale", nn.initializers.ones, cell.gates)
            x_tbg = scale_g * _standardize_gates(cell, x_tbg, axis=-1)
        x_tbg = x_tbg + bias_g
        if index_tb is not None:
            x_tbg = x_tbg[0, index_tb]
        params, kernel_dg = self._pointwise_params(), jnp.asarray(kernel_dg, self.dtype)
        sequence = Sequence(
            x_tbg,
            tuple(part.T for part in state),
            None if keep_tb is None else keep_tb.astype(x_tbg.dtype),
            None if dropout_bd is None else dropout_bd.T,
            entering,
        )
        if all_states:
            states = recur_states(cell.pointwise, params, kernel_dg, sequence)
            return states[0].astype(self.dtype), states
        h_tbd, final = recur(cell.pointwise, params, kernel_dg, sequence)
        return h_tbd.astype(self.dtype), tuple(part.T for part in final)

    def _vector(self, name: str, initializer: Callable, gates: int) -> Any:
        boxed = declared(initializer, ("mlp",))
        return self.param(name, boxed, (gates * self.d_hidden,))

    def _pointwise_params(self) -> Params:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        cell, params = CELLS[self.cell], {}
        if cell.recurrent_bias:
            params["recurrent_bias"] = self._vector("recurrent_bias", zeros, 1)
        if self.layer_norm:
            params["recurrent_scale"] = self._vector("recurrent_scale", ones, cell.gates)
        if self.layer_norm and cell.normalizes_memory:
            params["memory_scale"] = self._vector("memory_scale", ones, 1)
            params["memory_bias"] = self._vector("memory_bias", zeros, 1)
        return params
