"""Closed forms: the probability that the first coordinate of a draw exceeds t, for every law of the package."""

from math import inf

from scipy.special import betainc, ndtr

from brittle.laws import Gaussian, UniformBall, UniformSphere

LAWS = [
    Gaussian(0.7),
    UniformBall(1.5, 2),
    UniformBall(1.5, 1),
    UniformBall(1.5, inf),
    UniformSphere(1.5, 2),
    UniformSphere(1.5, 1),
    UniformSphere(1.5, inf),
]


def tail(law: Gaussian | UniformBall | UniformSphere, t: float, n: int) -> float:
    """P(delta_1 > t) for 0 <= t in n dimensions; for the Gaussian and the p = 2 laws any unit direction has the same."""
    if isinstance(law, Gaussian):
        return float(ndtr(-t / law.sigma))
    tau = min(1.0, t / law.radius)
    if isinstance(law, UniformSphere):
        return {
            2: 0.5 * betainc((n - 1) / 2, 0.5, 1 - tau**2),
            1: 0.5 * (1 - tau) ** (n - 1),
            inf: 0.5 / n + (n - 1) / n * 0.5 * (1 - tau),
        }[law.p]
    return {2: 0.5 * betainc((n + 1) / 2, 0.5, 1 - tau**2), 1: 0.5 * (1 - tau) ** n, inf: 0.5 * (1 - tau)}[law.p]
