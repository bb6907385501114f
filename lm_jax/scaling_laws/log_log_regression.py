"""Power laws `y = coefficient * x^exponent`, fitted as straight lines in logarithms."""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from lm_jax.errors import UserError
from lm_jax.scaling_laws.uncertainty import LEVEL


class Line(NamedTuple):
    """The least-squares line of log y over log x, with Student's intervals (B - 2 degrees).

    With two points the bounds of the intervals are infinite.
    """

    exponent: float
    height: float  # log y at the centre
    centre: float  # mean log x
    spread: float  # sum of squares of log x about the centre
    deviation: float  # residual standard deviation of log y
    points: int

    @property
    def coefficient(self) -> float:
        """Returns y at x = 1."""
        return float(np.exp(self.height - self.exponent * self.centre))

    def exponent_interval(self) -> list[float]:
        """Returns the 95% bounds of the exponent."""
        half = self._quantile() * self.deviation / np.sqrt(self.spread)
        return [self.exponent - half, self.exponent + half]

    def coefficient_interval(self) -> list[float]:
        """Returns the 95% bounds of the coefficient."""
        return np.exp(self._bounds(0.0, new=False)).tolist()

    def predict(self, x: float, new: bool = False) -> tuple[float, list[float]]:
        """Returns y at x and its 95% bounds, for the line or (`new`) for one more measurement."""
        middle = self.height + self.exponent * (np.log(x) - self.centre)
        return float(np.exp(middle)), np.exp(self._bounds(np.log(x), new)).tolist()

    def _bounds(self, log_x: float, new: bool) -> np.ndarray:
        distance = log_x - self.centre
        variance = 1 / self.points + distance**2 / self.spread + new
        half = self._quantile() * self.deviation * np.sqrt(variance)
        return self.height + self.exponent * distance + np.array([-half, half])

    def _quantile(self) -> float:
        return float(stdtrit(self.points - 2, (1 + LEVEL) / 2)) if self.points > 2 else np.inf


def fit_line(x: np.ndarray, y: np.ndarray) -> Line:
    """Returns the line through positive x and y [B].

    Raises:
      UserError: there are fewer than two distinct x.
    """
    if len(np.unique(x)) < 2:
        raise UserError(
            f"{len(np.unique(x))} usable budgets do not determine a power law; give at least 2"
        )
    log_x, log_y = np.log(x), np.log(y)
    centre, height = log_x.mean(), log_y.mean()
    spread = float(np.sum((log_x - centre) ** 2))
    exponent = float(np.sum((log_x - centre) * (log_y - height)) / spread)
    residuals = log_y - height - exponent * (log_x - centre)
    freedom = len(x) - 2
    # Two points leave no degree of freedom; a deviation of 1 keeps the infinite bounds infinite.
    deviation = float(np.sqrt(np.sum(residuals**2) / freedom)) if freedom else 1.0
    return Line(exponent, float(height), float(centre), spread, deviation, len(x))
