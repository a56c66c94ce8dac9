"""Problem: one robustness question. Does the property of the output survive when named leaves move inside their balls?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from brittle import meter, norms
from brittle.errors import InputError
from brittle.leaves import expand
from brittle.network import Network, call_with, read_logits
from brittle.region import Ball, Region, as_region
from brittle.restricted import restrict
from brittle.results import Witness
from brittle.spec import Specification, Threshold, Untargeted, margin
from brittle.validation import as_labels, check_inputs, check_region, one_sentence

Point = Mapping[str, Tensor]
NUMBERS = (
    2**21
)  # input and weight numbers per pass: 13 images of 3 x 224 x 224, about 1.2 GB in EfficientNet-Lite0 (measured)


@dataclass(frozen=True, eq=False, init=False)
class Problem:
    """Does the property survive everywhere in the region? Attacks, bounds, noise and diagnostics are functions of this.

    module   any ``torch.nn.Module`` (or callable) from a batch to logits. It is never changed. Normalisation is a layer of it.
    x        (N, ...) or a mapping of keyword inputs, each (N, ...). Distances are in the units of x.
    labels   (N,) integer classes; for one logit 0 or 1
    region   a :class:`Ball` (the input ``"x"`` moves), or balls by leaf: ``"x"``, ``"x.NAME"`` for keyword inputs, any
             parameter by its own name (``"param:NAME"`` where that is ambiguous), or a pattern over the names of parameters
             (``"*.weight"``, ``"layer1.*"``), which becomes one ball for each. Tied weights move together. Leaves without a ball stay.
    spec     which property: default "the label keeps winning" (one logit: stays on its side of 0)

    The remaining fields are filled in: ``index`` identifies the examples (randomness is folded from it), ``scale`` (N,)
    multiplies all radii of an example.

    >>> problem = Problem(torch.nn.Linear(2, 3), torch.zeros(1, 2), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> problem.leaves, len(problem)
    (('x',), 1)
    """

    module: Callable
    x: Tensor | Mapping[str, Tensor]
    labels: Tensor
    region: Region
    spec: Specification
    index: Tensor
    scale: Tensor
    network: Network = field(repr=False)
    checked: bool = field(repr=False)

    def __init__(  # written out because every field is narrower than what a caller may give
        self,
        module: Callable,
        x: Tensor | Mapping[str, Tensor],
        labels: Tensor,
        region: Ball | Region | None = None,
        spec: Specification | None = None,
        index: Tensor | None = None,
        scale: Tensor | None = None,
        network: Network | None = None,
        checked: bool = False,
    ) -> None:
        fill = lambda name, value: object.__setattr__(self, name, value)
        if not checked:
            given = module
            module, x, region = restrict(module, x, as_region(region))
            network = network if module is given else None
        fill("module", module)
        fill("x", x)
        fill("labels", labels if checked else as_labels(labels))
        fill("region", region)
        fill("spec", spec)
        fill("network", Network(module) if network is None else network)
        fill("checked", checked)
        if not checked:
            check_inputs(self.inputs, self.labels)
            fill("labels", self.labels.to(self.device))
        count = len(self.labels)
        fill("index", torch.arange(count) if index is None else index)
        fill("scale", torch.ones(count, dtype=torch.float64) if scale is None else scale.to(torch.float64).cpu())
        if not checked:
            fill("region", expand(self.region, self.inputs, self.network))
            check_region(self.region, self.inputs, self.network.parameters())
            logits = self.clean_logits()
            if spec is None:
                fill("spec", Threshold() if logits.shape[1] == 1 else Untargeted())
            self.spec.check(self.labels, logits.shape[1])
            fill("checked", True)

    # ---- the parts -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The inputs by leaf name: ``{"x": x}`` or ``{"x.NAME": tensor}``."""
        return {f"x.{name}": value for name, value in self.x.items()} if isinstance(self.x, Mapping) else {"x": self.x}

    @property
    def leaves(self) -> tuple[str, ...]:
        """The leaves that move."""
        return tuple(self.region)

    @property
    def device(self) -> torch.device:
        return next(iter(self.inputs.values())).device

    def parameter_name(self, leaf: str) -> str | None:
        """The parameter that a leaf names, or None for an input."""
        return None if leaf in self.inputs else leaf.removeprefix("param:")

    @property
    def centre(self) -> dict[str, Tensor]:
        """The unperturbed point: every moving leaf with one value per example; a parameter is expanded, not copied."""
        inputs = self.inputs
        parameters = {} if all(leaf in inputs for leaf in self.leaves) else self.network.parameters()
        return {
            leaf: inputs[leaf]
            if leaf in inputs
            else (weight := parameters[leaf.removeprefix("param:")]).expand(len(self), *weight.shape)
            for leaf in self.leaves
        }

    def radius(self, leaf: str) -> Tensor:
        """(N,) float64: this leaf's radius for every example, the scale included."""
        return self.region[leaf].radius * self.scale

    # ---- derived problems ------------------------------------------------------------------------------------------

    def take(self, indices: Tensor) -> "Problem":
        """The same question about some of the examples; their identities travel along."""
        at = indices.cpu()
        here = at.to(self.device)
        x = self.x[here] if isinstance(self.x, Tensor) else {k: v[here] for k, v in self.x.items()}
        spec = None if self.spec is None else self.spec.take(at)  # None while the question is being checked
        return replace(
            self, x=x, labels=self.labels[here], spec=spec, index=self.index[at], scale=self.scale[at], checked=True
        )

    def scaled(self, scale: Tensor | float) -> "Problem":
        """The same question with every radius of example i multiplied by ``scale[i]`` (on top of what was there)."""
        return replace(self, scale=self.scale * torch.as_tensor(scale, dtype=torch.float64).cpu())

    def within(self, region: Ball | Region) -> "Problem":
        """The same question in another region, at scale 1."""
        balls = as_region(region)
        if any(ball.within or ball.orthogonal_to for ball in balls.values()):
            return Problem(self.network.original, self.x, self.labels, balls, self.spec, self.index)
        balls = expand(balls, self.inputs, self.network)
        problem = replace(self, region=balls, scale=torch.ones_like(self.scale))
        check_region(problem.region, problem.inputs, problem.network.parameters())
        return problem

    def double(self) -> "Problem":
        """The same question asked of the exact float64 copy, at the same points cast to float64."""
        network = self.network.widened
        wide = lambda v: v.double() if v.is_floating_point() else v
        x = wide(self.x) if isinstance(self.x, Tensor) else {k: wide(v) for k, v in self.x.items()}
        return replace(self, module=network.original, network=network, x=x)

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def logits(self, point: Point | None = None) -> Tensor:
        """(N, C) at a point (default: the centre). Counts N forward passes."""
        meter.count(forward=len(self))
        point = {} if point is None else point
        if torch.is_grad_enabled():  # a caller that differentiates splits by itself: see gradient
            return self._forward(point)
        pieces = self._pieces(point)
        if len(pieces) == 1:
            return self._forward(point)
        return torch.cat([self.take(at)._forward(_at(point, at)) for at in pieces])

    def clean_logits(self) -> Tensor:
        """Logits at the centre, checked to be finite."""
        with torch.no_grad(), one_sentence(self.inputs):
            logits = self.logits()
        if logits.shape[0] != len(self):
            raise InputError(
                "model output",
                f"one row for each of the {len(self)} examples",
                tuple(logits.shape),
                "keep the batch axis first",
            )
        if not bool(logits.isfinite().all()):
            bad = (~logits.isfinite()).any(1).nonzero()[:, 0].tolist()
            raise InputError(
                "logits",
                "finite numbers",
                f"NaN or infinity for examples {bad[:5]}",
                "check weights and input range of the model",
            )
        return logits

    def rows(self, point: Point | None = None) -> Tensor:
        """(N, R) rows of the specification; the margin is the ``spec.rank``-th smallest."""
        return self.spec.rows(self.logits(point), self.labels)

    def margin(self, point: Point | None = None) -> Tensor:
        """(N,) in logit units; the property holds where it is > 0."""
        with torch.no_grad():
            return margin(self.rows(point), self.spec.rank)

    def gradient(
        self, point: Point, objective: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows (N, R) at a point, and the gradient of ``objective(rows) -> (N,)`` (default: the margin) by every moving leaf.

        One forward and one backward pass per example. A leaf that the output does not depend on gets zeros. A parameter of one value for
        all examples, (1, *shape), is never copied for each, and gets the sum of their gradients, (1, *shape).
        """
        objective = objective or (lambda rows: margin(rows, self.spec.rank))
        parts = [self._part_gradient(point, objective, at) for at in self._pieces(point, each=True)]
        meter.count(backward=len(self))
        if len(parts) == 1:
            return parts[0]
        join = lambda k, pieces: torch.cat(pieces) if len(point[k]) == len(self) else torch.stack(pieces).sum(0)
        return torch.cat([rows for rows, _ in parts]), {k: join(k, [g[k] for _, g in parts]) for k in point}

    def _part_gradient(
        self, point: Point, objective: Callable[[Tensor], Tensor], at: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows and gradients of the examples ``at``. The objective reads rows of all examples, and each value its own row alone."""
        whole = len(at) == len(self)
        part = self if whole else self.take(at)
        own = lambda v: v.detach() if v.is_contiguous() else v.detach().clone()  # autograd writes to no leaf
        leaves = {k: own(v).requires_grad_() for k, v in (point if whole else _at(point, at)).items()}
        with torch.enable_grad(), self.network.recurrent_safe():
            rows = part.rows(leaves)
            values = objective(rows) if whole else _of_some(objective, rows, at, len(self))
            gradients = _gradients(values.sum(), leaves)
        return rows.detach(), gradients

    def _pieces(self, point: Point, each: bool = False) -> tuple[Tensor, ...]:
        """The examples in micro-batches: what one forward and backward pass may hold depends on shapes alone, never on the machine.

        A parameter of one value for all examples costs nothing, unless there shall be a gradient for ``each``.
        """
        one = lambda v: len(v) < len(self) if each else alike(v)
        moved = sum(v[0].numel() for k, v in point.items() if k not in self.inputs and not one(v))
        width = moved + sum(v[0].numel() for v in self.inputs.values())
        return torch.arange(len(self)).split(max(1, NUMBERS // max(1, width)))

    def row_gradients(self, point: Point, which: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows (N, R) at a point and the gradients of the rows ``which`` (N, K): by leaf, (N, K, ...). K backward passes."""
        leaves = {k: v.detach().clone().requires_grad_() for k, v in point.items()}
        with torch.enable_grad(), self.network.recurrent_safe():
            rows = self.rows(leaves)
            chosen = rows.gather(1, which.to(rows.device))
            columns = [_gradients(chosen[:, k].sum(), leaves, retain=True) for k in range(chosen.shape[1])]
        meter.count(backward=len(self) * chosen.shape[1])
        return rows.detach(), {leaf: torch.stack([c[leaf] for c in columns], 1) for leaf in leaves}

    # ---- geometry --------------------------------------------------------------------------------------------------

    def size(self, point: Point) -> Tensor:
        """(N,) float64: the smallest scale of the unscaled region that holds the point (inf where a range or a radius 0 forbids it).

        For a region of one ball of radius 1 this is the distance. For several leaves it is the largest ratio of change to radius.
        """
        worst = torch.zeros(len(self), dtype=torch.float64, device=self.device)
        for leaf, value in point.items():
            ball, centre = self.region[leaf], self.centre[leaf]
            if leaf not in self.inputs and alike(value):
                value, centre = value[:1], centre[:1]
            change = value.detach().to(torch.float64) - centre.detach().to(torch.float64)
            distance = ball.size(change)
            ratio = distance / ball.radius if ball.radius > 0 else torch.where(distance > 0, inf, 0.0)
            low, high = ball.exact_range(value)
            outside = norms.flat((value.to(torch.float64) < low) | (value.to(torch.float64) > high)).any(1)
            if ball.section is not None:
                outside = ball.section.outside(value, self.inputs[ball.section.base])
            worst = torch.maximum(worst, torch.where(outside, inf, ratio))
        return worst.cpu()

    def project(self, point: Point) -> dict[str, Tensor]:
        """Bring a point into the region at the present scale: into each ball, then into its range (which never lengthens a change)."""
        return {leaf: self.project_leaf(leaf, value) for leaf, value in point.items()}

    def project_leaf(self, leaf: str, value: Tensor, radius: Tensor | None = None) -> Tensor:
        """Project one leaf; ``radius`` (N,) replaces the ball's own."""
        ball, centre = self.region[leaf], self.centre[leaf]
        radius = (self.radius(leaf) if radius is None else radius).to(value)
        if ball.section is not None:  # the clean coordinates are zero
            return ball.section.project(value, radius, ball.section.rooms(self.inputs[ball.section.base]))
        low, high = ball.range(value)
        return torch.minimum(torch.maximum(centre + ball.project(value - centre, radius), low), high)

    def settle(self, point: Point, scale: Tensor | None = None) -> dict[str, Tensor]:
        """The feasible, representable point nearest to hand: in the dtype of each leaf, inside the region to the last bit.

        scale : (N,) multiples of the unscaled region that must hold the point; default the present scale.
        Rounding can push a point over its radius: a change is then shortened by 2^-20 of itself, and each time by twice as much,
        since one unit in the last place of a value can be a large part of a small change.
        """
        limit = (self.scale if scale is None else scale).cpu()
        centre = self.centre
        settled = {k: self._boxed(k, v.detach().to(centre[k].dtype), limit) for k, v in point.items()}
        over = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for attempt in range(24):
            settled = {
                k: torch.minimum(torch.maximum(v, self.region[k].range(v)[0]), self.region[k].range(v)[1])
                for k, v in settled.items()
            }
            over = (self.size(settled) > limit).to(self.device)
            if not bool(over.any()):
                return settled
            for leaf, value in settled.items():
                shorter = self.project_leaf(leaf, value, (self.region[leaf].radius * limit).to(value.device))
                shorter = centre[leaf] + (shorter - centre[leaf]) * (
                    1 if self.region[leaf].p == 0 else 1 - min(1.0, 2.0 ** (attempt - 20))
                )
                settled[leaf] = torch.where(norms.spread(over, value), shorter, value)
        return {k: torch.where(norms.spread(over, v), centre[k], v) for k, v in settled.items()}

    def witness(self, point: Point, method: str = "") -> Witness:
        """Re-measure a final point: settle nothing, judge everything.

        ``found`` needs the property to fail for the module as given and for its float64 copy, at exactly the stored values.
        A point outside its range, or whose logits are not finite, becomes the clean point; a parameter of one value for all examples
        stays one value. Costs two forward passes.
        """
        own, exact = self._both_margins(point)
        size = self.size(point)
        feasible = size.isfinite()
        found = (own <= 0) & (exact <= 0) & feasible
        rounding = (own <= 0) & (exact > 0) & feasible
        broken = ~(own.isfinite() & exact.isfinite())
        keep = (feasible & ~broken).to(self.device)
        point = {k: v.expand(len(self), *v.shape[1:]) for k, v in point.items()}
        one = {k for k, v in point.items() if k not in self.inputs and alike(v)}
        kept = {k: v if k in one else torch.where(norms.spread(keep, v), v, self.centre[k]) for k, v in point.items()}
        status = tuple(
            "nan" if b else "found" if f else "rounding-only" if r else "none"
            for b, f, r in zip(broken.tolist(), found.tolist(), rounding.tolist(), strict=True)
        )
        if not bool(keep.all()) and not one:  # the margins must be those of the point that is returned
            clean_own, clean_exact = self._both_margins(self.centre)
            own, exact = torch.where(keep.cpu(), own, clean_own), torch.where(keep.cpu(), exact, clean_exact)
        return Witness(kept, own, found, torch.where(found | rounding, size, inf), status, method, exact)

    def _boxed(self, leaf: str, value: Tensor, limit: Tensor) -> Tensor:
        """For p = inf the nearest point of the ball, to the last bit and in one step; other balls are left to :meth:`settle`."""
        ball = self.region[leaf]
        if ball.p != inf or ball.section is not None or not bool(limit.isfinite().all()):
            return value
        low, high = ball.corners(self.centre[leaf], (ball.radius * limit).to(value.device))
        return torch.minimum(torch.maximum(value, low), high)

    # ---- private ---------------------------------------------------------------------------------------------------

    def _both_margins(self, point: Point) -> tuple[Tensor, Tensor]:
        """Margins (N,) of the module as given and of its float64 copy, both in float64 on the CPU."""
        own = self.margin(point)
        wide = lambda v: v[:1].to(torch.float64).expand(v.shape) if alike(v) else v.to(torch.float64)
        exact = self.double().margin({k: wide(v) for k, v in point.items()})
        return own.to(torch.float64).cpu(), exact.to(torch.float64).cpu()

    def _forward(self, point: Point) -> Tensor:
        values = {**self.inputs, **{k: v for k, v in point.items() if k in self.inputs}}
        moved = {k.removeprefix("param:"): v for k, v in point.items() if k not in self.inputs}
        module: Any = self.network.quiet  # a module wherever a parameter moves: a mere callable has none
        common = {n: v[0] for n, v in moved.items() if len(v) == 1 or alike(v)}
        moved = {n: v for n, v in moved.items() if n not in common}
        if not moved:
            call = (lambda *a, **k: call_with(module, common, a, k)) if common else module
            return read_logits(self._call(call, values))
        one = lambda weights, row: read_logits(
            self._call(
                lambda *a, **k: call_with(module, {**common, **weights}, a, k),
                {n: v[None] for n, v in row.items()},
            )
        )[0]
        if not self.network.cache.get("loop over weights"):
            try:
                return vmap(one, randomness="same")(moved, values)
            except RuntimeError:  # no batching rule (recurrent layers) or data-dependent control flow
                self.network.cache["loop over weights"] = True
        return torch.stack(
            [one({n: w[i] for n, w in moved.items()}, {n: v[i] for n, v in values.items()}) for i in range(len(self))]
        )

    def _call(self, module: Callable, values: Mapping[str, Tensor]) -> object:
        if isinstance(self.x, Tensor):
            return self.network.run(lambda: module(values["x"]))
        named = {name.removeprefix("x."): value for name, value in values.items()}
        return self.network.run(lambda: module(**named))


def alike(value: Tensor) -> bool:
    """Whether a leaf holds one value for all of several examples: (1, ...), or (N, ...) expanded and not copied."""
    return value.stride(0) == 0 if len(value) > 1 else True


def _at(point: Point, at: Tensor) -> dict[str, Tensor]:
    here = lambda v: v if len(v) == 1 else v[:1].expand(len(at), *v.shape[1:]) if alike(v) else v[at.to(v.device)]
    return {k: here(v) for k, v in point.items()}


def _of_some(objective: Callable[[Tensor], Tensor], rows: Tensor, at: Tensor, count: int) -> Tensor:
    """Values of the examples ``at`` under an objective that reads rows of all ``count`` of them."""
    here = at.to(rows.device)
    return objective(rows.new_zeros(count, rows.shape[1]).index_copy(0, here, rows))[here]


def _gradients(total: Tensor, leaves: Mapping[str, Tensor], retain: bool = False) -> dict[str, Tensor]:
    if not total.requires_grad:
        return {k: torch.zeros_like(v) for k, v in leaves.items()}
    values = torch.autograd.grad(total, list(leaves.values()), retain_graph=retain, allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), values, strict=True)}
