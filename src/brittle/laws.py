"""Random perturbations: a law draws what becomes of one leaf of one example."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, isfinite
from typing import Protocol, Self

import torch
from torch import Tensor

from brittle import norms
from brittle.digest import tensor_digest, text_digest
from brittle.errors import InputError

Range = tuple[float, float]
SYMMETRIC = 1e-6  # of the largest entry: what a covariance computed in float32 may be off (folklore)
WRITTEN = 1024  # numbers of a tensor that a record holds in full; of a larger one it holds the digest (folklore)
INPUT = "the change depends on the clean input: use perturb"


class Law(Protocol):
    """A noise law of one leaf.

    ``perturb`` gives independent perturbed points (count, *shape) in float64 on the CPU; for most laws they are the clean point plus
    ``draws``. ``support`` is (p, radius) of the smallest ball that holds every change (p = 0: so many coordinates); ``clip`` is
    the range that the perturbed leaf is clipped to afterwards, or None; ``check`` refuses a leaf that the law does not fit.
    """

    clip: Range | None

    def scaled(self, factor: float) -> Self: ...
    def support(self) -> tuple[float, float]: ...
    def facts(self) -> dict[str, object]: ...

    def clipped(self, low: float, high: float) -> Self:
        """The same law, the perturbed leaf clipped to a range afterwards."""
        return replace(self, clip=(low, high))  # type: ignore[type-var]  # every law is a dataclass

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """(count, *shape) independent changes."""
        raise InputError("draws", "a law of changes", type(self).__name__, INPUT)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """One change."""
        return self.draws(1, shape, generator)[0]

    def perturb(self, centre: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(count, *shape) independent perturbed points around a clean one of one example, not yet clipped."""
        return _point(centre) + self.draws(count, tuple(centre.shape), generator)

    def check(self, leaf: str, shape: tuple[int, ...]) -> None:
        """Raise InputError where a leaf of this shape (of one example) does not fit."""


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Law):
    """Normal changes: independent with standard deviation ``sigma``, or with any ``covariance``. Unclipped unless said otherwise.

    sigma       one number, or a tensor of the shape of one example of the leaf: a standard deviation for every feature
    covariance  (n, n) over the n flattened features of the leaf, symmetric positive definite; then sigma is left out

    Errors: InputError for a scale that is not positive, for a covariance that is not symmetric positive definite.

    >>> Gaussian(0.1).clipped(0, 1)
    Gaussian(sigma=0.1, clip=(0, 1))
    >>> Gaussian(covariance=torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    Gaussian(covariance=<tensor (2, 2)>, clip=None)
    """

    sigma: float | Tensor | None = None
    clip: Range | None = None
    covariance: Tensor | None = None
    factor: Tensor | None = field(init=False, default=None)  # L of covariance = L L^T

    def __post_init__(self) -> None:
        _range("Gaussian.clip", self.clip)
        if (self.sigma is None) == (self.covariance is None):
            raise InputError("Gaussian", "sigma or covariance", "both or none", "write for example bt.Gaussian(0.1)")
        fill = lambda name, value: object.__setattr__(self, name, value)
        if self.covariance is not None:
            covariance, factor = _definite(self.covariance)
            fill("covariance", covariance)
            fill("factor", factor)
        elif isinstance(self.sigma, Tensor) and self.sigma.dim():
            fill("sigma", _positive_tensor("Gaussian.sigma", self.sigma))
        else:
            _positive("Gaussian.sigma", self.sigma)
            if isinstance(self.sigma, Tensor):
                fill("sigma", float(self.sigma))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gaussian) and self.facts() == other.facts()

    def __hash__(self) -> int:
        return hash(text_digest(self.facts()))

    def __repr__(self) -> str:
        name, scale = ("sigma", self.sigma) if self.covariance is None else ("covariance", self.covariance)
        text = f"<tensor {tuple(scale.shape)}>" if isinstance(scale, Tensor) else repr(scale)
        return f"Gaussian({name}={text}, clip={self.clip})"

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        self.check("leaf", shape)
        normal = torch.randn((count, *shape), generator=generator, dtype=torch.float64)
        return self.spread(normal.reshape(count, -1)).reshape(normal.shape)

    def spread(self, normal: Tensor) -> Tensor:
        """(..., D) standard normal numbers as changes: ``A g`` with covariance ``A A^T``."""
        return normal @ self.factor.T if self.factor is not None else normal * self._deviations()

    def gathered(self, rows: Tensor) -> Tensor:
        """``A^T w`` for rows w (..., D): ``<w, A g> = <A^T w, g>``, of standard deviation ``|A^T w|``."""
        return rows @ self.factor.to(rows.device) if self.factor is not None else rows * self._deviations(rows)

    def isotropic(self) -> bool:
        """Whether all features are independent and have one standard deviation."""
        return self.covariance is None and not isinstance(self.sigma, Tensor)

    @cached_property
    def largest(self) -> tuple[float, float]:
        """At least the largest standard deviation of any ``<w, noise>`` with ``|w|_2 = 1``, and of any single feature."""
        if self.covariance is not None:
            outward = 1 + 1e-10  # the error of eigenvalues is a small multiple of 2^-52 of the largest
            widest = float(torch.linalg.eigvalsh(self.covariance)[-1])
            return widest**0.5 * outward, float(self.covariance.diagonal().max()) ** 0.5 * outward
        most = float(torch.as_tensor(self.sigma).max())
        return most, most

    def scaled(self, factor: float) -> "Gaussian":
        _positive("scale", factor)
        if self.covariance is not None:
            return replace(self, covariance=self.covariance * factor**2)
        assert self.sigma is not None
        return replace(self, sigma=self.sigma * factor)

    def check(self, leaf: str, shape: tuple[int, ...]) -> None:
        size = torch.Size(shape).numel()
        if isinstance(self.sigma, Tensor) and tuple(self.sigma.shape) != tuple(shape):
            do = f"expand it: sigma.expand{tuple(shape)}"
            raise InputError(f"sigma of leaf {leaf!r}", f"the shape {tuple(shape)}", tuple(self.sigma.shape), do)
        if self.covariance is not None and len(self.covariance) != size:
            got = f"{len(self.covariance)} rows"
            raise InputError(f"covariance of leaf {leaf!r}", f"{size} rows and columns", got, "one for each feature")

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw: unbounded for a Gaussian."""
        return 2, inf

    def facts(self) -> dict[str, object]:
        scale = {"sigma": _plain(self.sigma)} if self.covariance is None else {"covariance": _plain(self.covariance)}
        return {"law": "Gaussian", **scale, "clip": self.clip}

    def _deviations(self, like: Tensor | None = None) -> float | Tensor:
        if not isinstance(self.sigma, Tensor):
            assert self.sigma is not None
            return self.sigma
        return self.sigma.reshape(-1).to("cpu" if like is None else like.device)


@dataclass(frozen=True)
class Laplace(Law):
    """Independent Laplace changes of every feature, density ``exp(-|v| / scale) / (2 scale)``: standard deviation ``scale * sqrt(2)``.

    The log-density changes by at most ``|shift|_1 / scale`` under a shift, which is what l1 certificates of smoothed models rest on.

    >>> Laplace(0.1)
    Laplace(scale=0.1, clip=None)
    """

    scale: float
    clip: Range | None = None

    def __post_init__(self) -> None:
        _positive("Laplace.scale", self.scale)
        _range("Laplace.clip", self.clip)

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        uniform = torch.rand((2, count, *shape), generator=generator, dtype=torch.float64)
        exponential = -torch.log1p(-uniform)  # the difference of two exponential numbers is Laplace's
        return self.scale * (exponential[0] - exponential[1])

    def scaled(self, factor: float) -> "Laplace":
        return replace(self, scale=self.scale * factor)

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw: unbounded."""
        return 1, inf

    def facts(self) -> dict[str, object]:
        return {"law": "Laplace", "scale": self.scale, "clip": self.clip}


@dataclass(frozen=True)
class UniformBall(Law):
    """Uniform in the l_p ball of the given radius, p in {1, 2, inf}; p = inf is independent uniform noise."""

    radius: float
    p: float = 2
    clip: Range | None = None

    def __post_init__(self) -> None:
        _positive("UniformBall.radius", self.radius)
        _norm("UniformBall.p", self.p)
        _range("UniformBall.clip", self.clip)

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.radius * norms.uniform_ball(shape, self.p, generator, count)

    def scaled(self, factor: float) -> "UniformBall":
        return replace(self, radius=self.radius * factor)

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw."""
        return self.p, self.radius

    def facts(self) -> dict[str, object]:
        return {"law": "UniformBall", "radius": self.radius, "p": _norm_name(self.p), "clip": self.clip}


def UniformCube(radius: float, clip: Range | None = None) -> UniformBall:
    """Independent uniform changes in [-radius, radius] of every feature: ``UniformBall(radius, p=inf)`` by its everyday name.

    >>> UniformCube(0.1)
    UniformBall(radius=0.1, p=inf, clip=None)
    """
    return UniformBall(radius, inf, clip)


@dataclass(frozen=True)
class UniformSphere(Law):
    """Uniform on the surface of the l_p ball, p in {1, 2, inf}: every draw has exactly that norm, up to rounding."""

    radius: float
    p: float = 2
    clip: Range | None = None

    def __post_init__(self) -> None:
        _positive("UniformSphere.radius", self.radius)
        _norm("UniformSphere.p", self.p)
        _range("UniformSphere.clip", self.clip)

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.radius * norms.uniform_sphere(shape, self.p, generator, count)

    def scaled(self, factor: float) -> "UniformSphere":
        return replace(self, radius=self.radius * factor)

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw."""
        return self.p, self.radius

    def facts(self) -> dict[str, object]:
        return {"law": "UniformSphere", "radius": self.radius, "p": _norm_name(self.p), "clip": self.clip}


@dataclass(frozen=True)
class Replace(Law):
    """``k`` coordinates of the leaf, all choices equally likely, replaced by independent uniform values in [low, high].

    The change depends on the clean input. A leaf with fewer than k coordinates is refused when the law meets it.

    >>> pixels = Replace(2).perturb(torch.full((5,), 9.0), 1, torch.Generator().manual_seed(0))
    >>> int((pixels == 9).sum())
    3
    """

    k: int
    low: float = 0.0
    high: float = 1.0
    clip: Range | None = None

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InputError("Replace.k", "a whole number >= 1", self.k, "give the number of coordinates")
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise InputError("Replace", "finite low < high", (self.low, self.high), "give the range of the new values")
        _range("Replace.clip", self.clip)

    def perturb(self, centre: Tensor, count: int, generator: torch.Generator) -> Tensor:
        self.check("leaf", tuple(centre.shape))
        rows = _point(centre).reshape(1, -1).repeat(count, 1)
        which = torch.rand(rows.shape, generator=generator, dtype=torch.float64).topk(self.k, 1).indices
        values = torch.rand(which.shape, generator=generator, dtype=torch.float64)
        return rows.scatter_(1, which, self.values(values)).reshape(count, *centre.shape)

    def values(self, uniform: Tensor) -> Tensor:
        """Numbers of [0, 1] as new values."""
        return (self.low + (self.high - self.low) * uniform).clamp(self.low, self.high)

    def scaled(self, factor: float) -> "Replace":
        raise InputError("Replace", "a law with a scale", f"{self}", "ask about several k instead")

    def check(self, leaf: str, shape: tuple[int, ...]) -> None:
        size = torch.Size(shape).numel()
        if self.k > size:
            raise InputError(f"Replace on leaf {leaf!r}", f"k <= {size}, its coordinates", self.k, "choose a smaller k")

    def support(self) -> tuple[float, float]:
        """(0, k): at most k coordinates change."""
        return 0, self.k

    def facts(self) -> dict[str, object]:
        return {"law": "Replace", "k": self.k, "low": self.low, "high": self.high, "clip": self.clip}


@dataclass(frozen=True)
class Sampler(Law):
    """Noise from a function of yours: blur, brightness, weather, anything that can be drawn.

    function  (x, generator) -> the perturbed x: one example of the leaf in float64 and of its shape, in and out. It is called once for every draw
              and must take its random numbers from ``generator``, or answers do not repeat
    name      how records and reports call it; default the name of the function

    Draws are all that is known of such a law: Monte Carlo has its exact interval, analytic bounds say that they have no tail for it.

    >>> fog = Sampler(lambda x, g: x + (1 - x) * torch.rand((), generator=g, dtype=x.dtype), name="fog")
    >>> fog.perturb(torch.zeros(2, 3), 4, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2, 3])
    """

    function: Callable[[Tensor, torch.Generator], Tensor]
    name: str = ""
    clip: Range | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError("Sampler.function", "a function (x, generator) -> x", self.function, "pass a callable")
        _range("Sampler.clip", self.clip)
        if not self.name:
            object.__setattr__(self, "name", getattr(self.function, "__name__", type(self.function).__name__))

    def perturb(self, centre: Tensor, count: int, generator: torch.Generator) -> Tensor:
        clean = _point(centre)
        return torch.stack([self._one(clean.clone(), generator) for _ in range(count)])

    def _one(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shape, found = x.shape, self.function(x, generator)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"sampler {self.name!r}", f"a tensor of shape {tuple(shape)}", got, "return the perturbed x"
            )
        found = found.detach().to("cpu", torch.float64)
        if not bool(found.isfinite().all()):
            raise InputError(f"sampler {self.name!r}", "finite numbers", "NaN or infinity", "correct the function")
        return found

    def scaled(self, factor: float) -> "Sampler":
        raise InputError("Sampler", "a law with a scale", self.name, "make a sampler for every scale")

    def support(self) -> tuple[float, float]:
        """Nothing is known."""
        return 2, inf

    def facts(self) -> dict[str, object]:
        return {"law": "Sampler", "name": self.name, "code": _code(self.function), "clip": self.clip}


def as_laws(law: "Law | Mapping[str, Law]") -> dict[str, Law]:
    """Laws by leaf; a lone law moves the input ``"x"``."""
    laws = dict(law) if isinstance(law, Mapping) else {"x": law}
    for name, value in laws.items():
        if not all(hasattr(value, part) for part in ("perturb", "support", "facts")):
            raise InputError(
                f"law of {name!r}", "a noise law", type(value).__name__, "write for example bt.Gaussian(0.1)"
            )
    if not laws:
        raise InputError("law", "at least one leaf that moves", "an empty mapping", 'write {"x": bt.Gaussian(0.1)}')
    return laws


def from_facts(facts: Mapping[str, object]) -> Law | None:
    """The law that a record describes; None where the record does not hold all of it (a function, a large tensor).

    >>> from_facts(UniformCube(0.1).facts())
    UniformBall(radius=0.1, p=inf, clip=None)
    """
    known = {law.__name__: law for law in (Gaussian, Laplace, UniformBall, UniformSphere, Replace)}
    options = {k: v for k, v in facts.items() if k != "law"}
    if facts["law"] not in known:
        return None
    for name, value in options.items():
        if isinstance(value, Mapping):
            if "values" not in value:
                return None
            options[name] = torch.tensor(value["values"], dtype=torch.float64)
    clip = options.get("clip")
    options["clip"] = None if clip is None else tuple(map(float, clip))  # type: ignore[arg-type]
    if "p" in options:
        options["p"] = float(options["p"])  # type: ignore[arg-type]
    return known[str(facts["law"])](**options)  # type: ignore[arg-type]


# ---- private -------------------------------------------------------------------------------------------------------


def _point(centre: Tensor) -> Tensor:
    return centre.detach().to("cpu", torch.float64)


def _plain(scale: float | Tensor | None) -> object:
    if not isinstance(scale, Tensor):
        return scale
    facts = {"tensor": tensor_digest(scale), "shape": list(scale.shape)}
    return facts | ({"values": scale.tolist()} if scale.numel() <= WRITTEN else {})


def _code(function: Callable) -> str | None:
    """The digest of the source of a function, where there is one to read."""
    import inspect

    try:
        return text_digest(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def _definite(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance as exactly symmetric float64, and its lower factor."""
    what, do = "Gaussian.covariance", "add a small multiple of the identity, or correct it"
    value = torch.as_tensor(covariance).detach().to("cpu", torch.float64)
    if value.dim() != 2 or value.shape[0] != value.shape[1] or not len(value):
        raise InputError(what, "a square matrix", tuple(value.shape), "one row and column for each feature")
    if not bool(value.isfinite().all()):
        raise InputError(what, "finite numbers", "NaN or infinity", do)
    apart = float((value - value.T).abs().max())
    if apart > SYMMETRIC * float(value.abs().max()):
        raise InputError(what, "a symmetric matrix", f"entries that differ by {apart:.3g} from their mirror image", do)
    value = (value + value.T) / 2
    factor, failed = torch.linalg.cholesky_ex(value)
    if bool(failed):
        least = float(torch.linalg.eigvalsh(value)[0])
        raise InputError(what, "a positive definite matrix", f"one with smallest eigenvalue {least:.3g}", do)
    return value, factor


def _positive_tensor(what: str, value: Tensor) -> Tensor:
    value = value.detach().to("cpu", torch.float64)
    if not (value.numel() and bool((value.isfinite() & (value > 0)).all())):
        least = float(value.min()) if value.numel() else "none"
        raise InputError(what, "finite numbers > 0", f"a tensor with smallest entry {least}", "one for each feature")
    return value


def _positive(what: str, value: object) -> None:
    if not (isinstance(value, (int, float, Tensor)) and isfinite(value) and value > 0):
        raise InputError(what, "a finite number > 0", value, "give it in the units of the leaf")


def _norm(what: str, p: float) -> None:
    if p not in (1, 2, inf):
        raise InputError(what, "1, 2 or inf", p, "choose one of these norms")


def _norm_name(p: float) -> object:
    return "inf" if p == inf else p


def _range(what: str, clip: Range | None) -> None:
    if clip is not None and not clip[0] <= clip[1]:
        raise InputError(what, "low <= high", clip, "swap them")
