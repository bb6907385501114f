"""The kernels of attention to choose from: cuDNN's, and where it and the TPUs' can be had.

Axes: b batch, t query time, s key time, h query heads, g key/value heads, k head width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, jaxpr_as_fun

from lm_jax.errors import UserError
from lm_jax.models.target import target
from lm_jax.models.transformer.positions import POSITIONS

if TYPE_CHECKING:  # the configuration takes its choices from here
    from lm_jax.models.transformer.config import BlocksConfig

LANES = 128  # tokens: what the lengths that splash reads are multiples of
_BLOCKWISE_FROM = 512  # tokens; measured on CPUs, docs/performance.md
_ASKED = "variadic_args"  # a parameter of cuDNN's passes in a jaxpr
PRIMITIVE = "dot_product_attention_fwd_wrapper"  # what the forward pass is in a jaxpr
RESIDUALS = "attention_residuals"  # by this name splash's output and log-normalizers are kept


def attend_fused(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    mask_bts: jax.Array | None = None,
    scale: float = 0.0,
    *,
    causal: bool = False,
) -> jax.Array:
    """Attends as `attend`, by cuDNN's flash attention: no scores are kept for the backward pass.

    `causal` alone needs no mask. A mask becomes a bias [b, 1, t, s] of the dtype of q_bthk, 0 or
    below -1e12, whose softmax is exactly 0: jax.nn's function knows no segments.
    """
    if mask_bts is None:
        return _by_cudnn(q_bthk, k_bsgk, v_bsgk, None, scale, causal)
    return _masked(q_bthk, k_bsgk, v_bsgk, mask_bts[:, None], scale, causal)


def _by_cudnn(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    mask_b1ts: jax.Array | None,
    scale: float,
    causal: bool,
) -> jax.Array:
    return jax.nn.dot_product_attention(
        q_bthk,
        k_bsgk,
        v_bsgk,
        mask=mask_b1ts,
        scale=scale or None,
        is_causal=causal,
        implementation="cudnn",
    )


_masked = jax.custom_vjp(_by_cudnn, nondiff_argnums=(4, 5))


def _masked_forward(q_bthk, k_bsgk, v_bsgk, mask_b1ts, scale, causal):
    def attend(q_bthk, k_bsgk, v_bsgk):
        return _by_cudnn(q_bthk, k_bsgk, v_bsgk, mask_b1ts, scale, causal)

    return jax.vjp(attend, q_bthk, k_bsgk, v_bsgk)


def _masked_backward(scale, causal, pull, dy_bthk):
    """Computes what `pull` does, but for the gradient of the mask's bias, which nothing reads."""
    traced = jax.make_jaxpr(pull)(dy_bthk)
    equations = [_without_bias_gradient(equation) for equation in traced.eqns]
    spared = traced.replace(jaxpr=traced.jaxpr.replace(eqns=equations))
    return *jaxpr_as_fun(spared)(dy_bthk), None


def _without_bias_gradient(equation: JaxprEqn) -> JaxprEqn:
    """Returns an equation that asks for one result less, if it is cuDNN's and gives it.

    The parameter says whether there is a bias, and whether its gradient is asked for: for any bias
    in `jax.nn`, which has no argument for that.
    """
    if equation.params.get(_ASKED) != (True, True):
        return equation
    params = equation.params | {_ASKED: (True, False)}
    return equation.replace(params=params, outvars=equation.outvars[:-1])


_masked.defvjp(_masked_forward, _masked_backward)


def kernel(config: "BlocksConfig", dtype: jnp.dtype) -> str:
    """Returns xla, blockwise, cudnn or splash: what `model.attention` means on these devices.

    Raises:
      UserError: cuDNN or splash is asked for where it cannot be had.
    """
    return KERNELS[config.attention](config, dtype)


def _cudnn(config: "BlocksConfig", dtype: jnp.dtype) -> str:
    if obstacle := _obstacle(config, dtype):
        raise UserError(
            f"model.attention is cudnn, but {obstacle}; take auto, which then runs XLA's, or xla"
        )
    return "cudnn"


def _splash(config: "BlocksConfig", dtype: jnp.dtype) -> str:
    if obstacle := _obstacle_to_splash(config):
        raise UserError(
            f"model.attention is splash, but {obstacle}; take auto, which then runs another, or xla"
        )
    return "splash"


KERNELS: dict[str, Callable[["BlocksConfig", jnp.dtype], str]] = {
    "xla": lambda config, dtype: "xla",
    "blockwise": lambda config, dtype: "blockwise",
    "cudnn": _cudnn,
    "splash": _splash,
    "auto": lambda config, dtype: _fastest(config, dtype),
}


def _fastest(config: "BlocksConfig", dtype: jnp.dtype) -> str:
    if not _obstacle(config, dtype):
        return "cudnn"
    if not _obstacle_to_splash(config):
        return "splash"
    is_long = max(config.lengths().values()) >= _BLOCKWISE_FROM
    biased = POSITIONS[config.positions].biases_scores  # as large as what blocks avoid
    return "blockwise" if is_long and not biased and target() == "cpu" else "xla"


def _obstacle(config: "BlocksConfig", dtype: jnp.dtype) -> str | None:
    """Returns why cuDNN's kernels do not serve a model that is trained here."""
    if target() != "cuda":
        return f"the devices are {target()}s, not CUDA GPUs"
    if dtype != jnp.bfloat16:
        return f"compute_dtype is {jnp.dtype(dtype).name}, not bfloat16"
    if POSITIONS[config.positions].biases_scores:
        return f"{config.positions} positions are biases of [b, h, t, s], as large as what it saves"
    if config.attention_soft_cap:
        return "its kernels know no model.attention_soft_cap"
    width = config.head_width
    if width % 8 or width > 128:
        return f"the width of a head is {width}, no multiple of 8 up to 128"
    for name, length in config.lengths().items():
        if length % 2:
            return f"model.{name} is {length}, an odd number"
    return None


def _obstacle_to_splash(config: "BlocksConfig") -> str | None:
    """Returns why the kernel for TPUs does not serve a model here."""
    if target() != "tpu":
        return f"the devices are {target()}s, not TPUs"
    if POSITIONS[config.positions].biases_scores:
        return f"{config.positions} positions are biases of [b, h, t, s], as large as what it saves"
    for name, length in config.lengths().items():
        if length % LANES:
            return f"model.{name} is {length}, no multiple of {LANES}"
    return None
