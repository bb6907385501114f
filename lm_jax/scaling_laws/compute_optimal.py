"""The compute-optimal size and tokens under a law of N and D, for C = 6 N D."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError

FLOPS_PER_PARAMETER_AND_TOKEN = 6  # forward 2, backward 4 (Kaplan et al. 2020, section 2.1)


class Optimum(NamedTuple):
    """The compute-optimal model of a budget; arrays have the shape of the law's parameters."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray


def optimum(law: str, parameters: Mapping[str, Any], budget: float) -> Optimum:
    """Returns N*, D* and L* at a budget in FLOPs (Hoffmann et al. 2022, equation 4).

    The minimum of `A/N^alpha + B/D^beta` under `6 N D = C` is at `N* = G (C/6)^a`,
    `D* = (C/6)^b / G`, where
    `G = (alpha A / (beta B))^(1/(alpha+beta))`, `a = beta/(alpha+beta)` and `b = 1 - a`. Kaplan's
    L(N, D) is a power of such a sum.

    Args:
      law: `parametric` or `kaplan`.
      parameters: the published parameters by name, numbers or arrays.
      budget: training FLOPs.

    Raises:
      UserError: the law is no law of N and D.
    """
    log_a, log_b, alpha, beta = _terms(law, parameters)
    product = np.log(budget / FLOPS_PER_PARAMETER_AND_TOKEN)
    a, _ = exponents(law, parameters)
    log_g = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta)
    log_n = log_g + a * product
    log_d = product - log_n
    inner = np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)
    loss = parameters["E"] + inner if law == "parametric" else inner ** parameters["alpha_d"]
    return Optimum(np.exp(log_n), np.exp(log_d), loss)


def exponents(law: str, parameters: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a and b of `N* ~ C^a`, `D* ~ C^b`. Raises UserError as `optimum` does."""
    _, _, alpha, beta = _terms(law, parameters)
    return beta / (alpha + beta), alpha / (alpha + beta)


def _terms(law: str, parameters: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Returns log A, log B, alpha and beta of the sum to minimise."""
    if law == "parametric":
        a, b, alpha, beta = (np.asarray(parameters[name]) for name in ("A", "B", "alpha", "beta"))
        return np.log(a), np.log(b), alpha, beta
    if law == "kaplan":
        names = ("N_c", "D_c", "alpha_n", "alpha_d")
        n_c, d_c, alpha_n, alpha_d = (np.asarray(parameters[name]) for name in names)
        alpha = alpha_n / alpha_d
        return alpha * np.log(n_c), np.log(d_c), alpha, np.ones_like(alpha)
    raise UserError(f"{law} is no law of N and D; parametric and kaplan have an optimum")
