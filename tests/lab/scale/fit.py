"""Lines through measured points, with what each misses by, so that a reader sees how good they are. Pure."""

import math
import statistics
from collections.abc import Sequence

from attrs import frozen


@frozen
class Line:
    """`y = slope * x + intercept`, fitted by least squares.

    `residuals` are measured minus fitted, one for each point, in the unit of y. `r_squared` is the part of y's
    variance that the line explains: 1 is all of it, and near 0 the slope is no more than noise. `slope_error` is the
    slope's standard error, infinite where two points leave no room for one.
    """

    slope: float
    slope_error: float
    intercept: float
    r_squared: float
    residuals: Sequence[float]

    def at(self, x: float) -> float:
        return self.slope * x + self.intercept

    @property
    def is_told_from_noise(self) -> bool:
        """The slope is above 0 by more than twice its standard error."""
        return self.slope > 2 * self.slope_error

    @property
    def worst_residual(self) -> float:
        """The largest miss, in the unit of y, without its sign."""
        return max(abs(one) for one in self.residuals)


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (x, y) points; `statistics.StatisticsError` unless there are two different x."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    slope, intercept = statistics.linear_regression(xs, ys)
    residuals = [y - (slope * x + intercept) for x, y in points]
    spread = sum((y - statistics.fmean(ys)) ** 2 for y in ys)
    explained = 1.0 - sum(one**2 for one in residuals) / spread if spread else 1.0
    across = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    left = len(points) - 2
    error = math.sqrt(sum(one**2 for one in residuals) / left / across) if left else math.inf
    return Line(slope, error, intercept, max(0.0, explained), tuple(residuals))
