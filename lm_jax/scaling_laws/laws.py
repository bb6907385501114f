"""Scaling laws as formulas: log L from an array of parameters and the logs of N, D, C or steps.

A law is fitted in coordinates in which its parameters are nearly uncorrelated: variables are
centred logs, and scales are logarithms. `natural` maps them to the published parameters, affinely
and with the scales still as logarithms.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError

_EXPONENTS = (0.1, 0.3, 0.9)  # of the starts of fits
_SHARES = (0.2, 0.5, 0.8)  # of the terms of a sum, at the starts of fits


class Law(NamedTuple):
    """A formula with K parameters of V variables, at points p."""

    name: str
    formula: str
    variables: tuple[str, ...]
    parameters: tuple[str, ...]
    is_log: tuple[bool, ...]  # which values of `natural` are logarithms
    log_loss: Callable[[jax.Array, jax.Array], jax.Array]  # theta [K] or [K, p], x [V, p] -> [p]
    natural: Callable[[np.ndarray, np.ndarray], np.ndarray]  # theta [..., K], centre [V]
    starts: Callable[[np.ndarray, np.ndarray], np.ndarray]  # x [V, p], log losses [p] -> [S, K]


class _Term(NamedTuple):
    scale: str
    exponent: str | None = None
    variable: int = 0


def _sum_of_powers(
    name: str, formula: str, variables: tuple[str, ...], terms: Sequence[_Term]
) -> Law:
    """Returns the law whose loss is a sum of terms `scale / variable^exponent`."""
    powers = [(k, term) for k, term in enumerate(terms) if term.exponent]
    slot = {k: len(terms) + j for j, (k, _) in enumerate(powers)}
    names = [term.scale for term in terms] + [str(term.exponent) for _, term in powers]

    def log_loss(theta: jax.Array, x: jax.Array) -> jax.Array:
        logs = [
            theta[k] - theta[slot[k]] * x[term.variable]
            if term.exponent
            else jnp.broadcast_to(theta[k], x.shape[1:])
            for k, term in enumerate(terms)
        ]
        return jax.nn.logsumexp(jnp.stack(logs), axis=0)

    def natural(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
        values = np.array(theta, np.float64)
        for k, term in powers:
            values[..., k] += values[..., slot[k]] * centre[term.variable]
        return values

    def starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = []
        for cut in product(_SHARES, repeat=len(terms) - 1):
            shares, left = [], 1.0
            for share in cut:
                shares.append(share * left)
                left -= share * left
            scales = np.mean(y) + np.log([*shares, left])
            found += [[*scales, *exponents] for exponents in _grid(len(powers))]
        return np.array(found)

    return Law(
        name,
        formula,
        variables,
        tuple(names),
        tuple(k < len(terms) for k in range(len(names))),
        log_loss,
        natural,
        starts,
    )


def _grid(count: int) -> list[tuple[float, ...]]:
    return list(product(_EXPONENTS, repeat=count))


@lru_cache
def power(variable: str) -> Law:
    """Returns `L(X) = A / X^alpha` for X = n, d or c (Kaplan et al. 2020, equations 1.1 to 1.3).

    The paper writes `(X_c / X)^alpha`, with `X_c = A^(1 / alpha)`.
    """
    return _sum_of_powers("power", f"L = A/{variable.upper()}^alpha", (variable,), [_A])


@lru_cache
def power_offset(variable: str) -> Law:
    """Returns `L(X) = E + A / X^alpha` for X = n, d or c: a power law above the entropy E."""
    formula = f"L = E + A/{variable.upper()}^alpha"
    return _sum_of_powers("power_offset", formula, (variable,), [_Term("E"), _A])


_A = _Term("A", "alpha")

PARAMETRIC = _sum_of_powers(
    "parametric",
    "L = E + A/N^alpha + B/D^beta",
    ("n", "d"),
    [_Term("E"), _A, _Term("B", "beta", 1)],
)
"""The law of parameters and tokens of Hoffmann et al. 2022, equation 2."""


def _kaplan_log_loss(theta: jax.Array, x: jax.Array) -> jax.Array:
    log_nc, log_dc, alpha_n, alpha_d = theta
    logs = [alpha_n / alpha_d * (log_nc - x[0]), log_dc - x[1]]
    return alpha_d * jax.nn.logsumexp(jnp.stack(logs), axis=0)


def _learning_curve_log_loss(theta: jax.Array, x: jax.Array) -> jax.Array:
    log_nc, log_sc, alpha_n, alpha_s = theta
    logs = [alpha_n * (log_nc - x[0]), alpha_s * (log_sc - x[1])]
    return jax.nn.logsumexp(jnp.stack(logs), axis=0)


def _shifted(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
    values = np.array(theta, np.float64)
    values[..., :2] += centre
    return values


def _kaplan_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Varies the shares of the two terms of L^(1 / alpha_d) at the centre, and both exponents."""
    found = []
    for share, (alpha_n, alpha_d) in product(_SHARES, _grid(2)):
        inner = np.mean(y) / alpha_d
        log_nc = (inner + np.log(share)) * alpha_d / alpha_n
        found.append([log_nc, inner + np.log1p(-share), alpha_n, alpha_d])
    return np.array(found)


def _learning_curve_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array(
        [
            [
                (np.mean(y) + np.log(share)) / alpha_n,
                (np.mean(y) + np.log1p(-share)) / alpha_s,
                alpha_n,
                alpha_s,
            ]
            for share, (alpha_n, alpha_s) in product(_SHARES, _grid(2))
        ]
    )


KAPLAN = Law(
    "kaplan",
    "L = [(N_c/N)^(alpha_n/alpha_d) + D_c/D]^alpha_d",
    ("n", "d"),
    ("N_c", "D_c", "alpha_n", "alpha_d"),
    (True, True, False, False),
    _kaplan_log_loss,
    _shifted,
    _kaplan_starts,
)
"""The law of parameters and tokens of Kaplan et al. 2020, equation 1.5."""

LEARNING_CURVE = Law(
    "learning_curve",
    "L = (N_c/N)^alpha_n + (S_c/S)^alpha_s",
    ("n", "s"),
    ("N_c", "S_c", "alpha_n", "alpha_s"),
    (True, True, False, False),
    _learning_curve_log_loss,
    _shifted,
    _learning_curve_starts,
)
"""The law of parameters and optimizer steps (S_min) of Kaplan et al. 2020, equation 1.6."""


@lru_cache
def by_group(law: Law, groups: tuple[str, ...], shared: tuple[str, ...]) -> Law:
    """Returns one law for several groups, with its own parameters for each but the `shared` ones.

    A parameter `A` of group `lstm` is called `A[lstm]`. The last row of `x` is the index of each
    point's group.

    Raises:
      UserError: the law has no parameter of a shared name.
    """
    unknown = set(shared) - set(law.parameters)
    if unknown:
        raise UserError(
            f"{', '.join(sorted(unknown))}: not among the parameters of {law.name}, "
            f"which are {', '.join(law.parameters)}"
        )
    names: list[str] = []
    table = np.zeros((len(law.parameters), len(groups)), np.int32)
    for k, name in enumerate(law.parameters):
        for g, group in enumerate(groups):
            if name not in shared or g == 0:
                names.append(name if name in shared else f"{name}[{group}]")
            table[k, g] = len(names) - 1
    rows = {int(table[k, g]): (k, g) for g in range(len(groups)) for k in range(len(table))}

    def log_loss(theta: jax.Array, x: jax.Array) -> jax.Array:
        return law.log_loss(theta[jnp.asarray(table)[:, x[-1].astype(int)]], x[:-1])

    def natural(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
        values = np.stack([law.natural(theta[..., slots], centre[:-1]) for slots in table.T])
        return np.stack(
            [values[g, ..., k] for k, g in map(rows.__getitem__, range(len(names)))], -1
        )

    def starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        common = law.starts(x[:-1], y)
        found = np.zeros((len(common), len(names)))
        for k in range(len(table)):
            found[:, table[k]] = common[:, [k]]
        return found

    is_log = tuple(law.is_log[rows[i][0]] for i in range(len(names)))
    formula = law.formula + f", {', '.join(shared) or 'nothing'} shared"
    return Law(
        f"{law.name} by group",
        formula,
        (*law.variables, "group"),
        tuple(names),
        is_log,
        log_loss,
        natural,
        starts,
    )
