"""A search tree grown level by level until every part is settled, or the budget ends, or a point is found that fails."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from brittle.bounds import _programs
from brittle.bounds._ascent import Thin, ascend, halved
from brittle.bounds._tree import Items, Root, proved

BLOCK = 2**21  # entries of the tensors that hold one value per unit, of the subproblems treated at once
FORESEEN = 3  # levels after which the size of the whole tree is foreseen from what a level gains
HOPELESS = 16.0  # times the budget: trees foreseen larger than that are given up (folklore: a level gains more the later it comes)
EXACT = 64  # parts of one visit whose every unit is split: solved one by one


@dataclass(frozen=True)
class Effort:
    """leaves of one example, steps at a node, ends: of the clock."""

    leaves: int
    steps: int
    ends: float


@dataclass(eq=False)
class Tree:
    """closed leaves with their bounds; lost bases (B,) bool; the points that fail, by base and input node."""

    root: Root
    effort: Effort
    closed: list[Items] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    failing: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.thin = Thin.of(self.root)
        count = len(self.root.example)
        self.lost = torch.zeros(count, dtype=torch.bool)
        self.first = torch.full((count,), torch.nan)
        self.need = self.root.target.float()

    def grow(self, slopes: Tensor, warm: bool) -> "Tree":
        """Until nothing is open. ``slopes`` (B, U): where the ascent begins, ``warm``: near its end."""
        items, depth = Items.whole(slopes), 0
        block = max(1, BLOCK // self.root.units.total)
        while len(items):
            steps = self.effort.steps * (1 if warm or depth else 3)
            children, level = [], []
            for at in torch.arange(len(items)).split(block):
                part = items.take(at)
                some, seen = self._visit(part.take(~self.lost[part.base]), steps)
                children += some
                level.append(seen)
                if perf_counter() > self.effort.ends:
                    self.lost[items.base] = True
            items = Items.join(children) if children else items.take(torch.arange(0))
            self._forget(items, torch.cat(level), depth)
            items = items.take(~self.lost[items.base])
            depth += 1
        return self

    def _visit(self, items: Items, steps: int) -> tuple[list[Items], Tensor]:
        """Bound some subproblems, close those that are positive, and return the halves of the others; (K, 2) base and value of what is split."""
        none = torch.zeros(0, 2)
        if not len(items):
            return [], none
        need = self.need[items.base]
        items, sight = ascend(self.thin, items, steps, need)
        self._fail(items, sight.at, (sight.true <= 0).nonzero()[:, 0])
        done = self._close(items, sight.value > need)
        flat = (~done & (sight.unit < 0) & ~self.lost[items.base]).nonzero()[:, 0]
        self._exactly(items.take(flat))
        split = (~done & (sight.unit >= 0) & ~self.lost[items.base]).nonzero()[:, 0]
        if not len(split):
            return [], none
        seen = torch.stack([items.base[split].float(), sight.value[split]], 1)
        return halved(items.take(split), sight.unit[split], sight.coefficient[split]), seen

    def _forget(self, items: Items, level: Tensor, depth: int) -> None:
        """Examples whose tree is too large, or will be."""
        count = len(self.lost)
        base, value = level[:, 0].long(), level[:, 1]
        number = torch.bincount(base, minlength=count)
        mean = torch.zeros(count).index_add_(0, base, value) / number.clamp_min(1)
        if depth == 0:
            self.first = mean
        elif depth >= FORESEEN:
            gain = (mean - self.first) / depth
            further = ((self.need - mean) / gain.clamp_min(1e-30)).clamp(0, 60)
            self.lost |= (number > 0) & (2.0 * number * 2.0**further > HOPELESS * self.effort.leaves)
        every = torch.cat([c.base for c in [*self.closed, items]])
        leaves = torch.zeros(int(self.root.example.max()) + 1).index_add_(
            0, self.root.example[every], torch.ones(len(every))
        )
        self.lost |= (leaves > self.effort.leaves)[self.root.example]

    def _exactly(self, items: Items) -> None:
        """Parts on which every unit has its sign: what is left is a convex program."""
        for at in torch.arange(len(items)).split(EXACT):
            part = items.take(at[~self.lost[items.base[at]]])
            if not len(part) or perf_counter() > self.effort.ends:
                continue
            exact, points = _programs.settled(self.root, part)
            done = self._close(exact, torch.ones(len(exact), dtype=torch.bool))
            left = (~done).nonzero()[:, 0].tolist()
            for i in left:
                self._fail(exact.take(torch.tensor([i])), points[i], torch.tensor([0]))
                self.lost[exact.base[i]] = True

    def _fail(self, items: Items, at: Mapping[str, Tensor], where: Tensor) -> None:
        """Points at which a row may fail: where it does so in float64, its base is lost and the point kept."""
        if not len(where):
            return
        base = items.base[where]
        problem = self.root.problem.take(base)
        leaves = {name: leaf for leaf, name in self.root.state.graph.inputs.items() if leaf in problem.region}
        double = problem.double()
        point = double.project({leaf: at[name][where].double() for name, leaf in leaves.items()})
        rows = double.rows(point)
        value = rows[torch.arange(len(base)), self.root.row[base]]
        for i in (value <= 0).nonzero()[:, 0].tolist():
            self.lost[base[i]] = True
            self.failing.setdefault(int(base[i]), {leaf: v[i] for leaf, v in point.items()})

    def _close(self, items: Items, hopeful: Tensor) -> Tensor:
        """(M,) which are proved, with slopes and multipliers as they will be stored; those are kept as leaves."""
        at = hopeful.nonzero()[:, 0]
        if len(at):
            stored = items.take(at).as_stored()
            value = proved(self.root, stored)
            good = value > self.root.target[stored.base]
            self.closed.append(stored.take(good))
            self.values.append(value[good])
            hopeful = hopeful.clone()
            hopeful[at[~good]] = False
        return hopeful

    def leaves(self) -> tuple[Items, Tensor] | None:
        """Those of bases that are settled, and their bounds."""
        if not self.closed:
            return None
        items, values = Items.join(self.closed), torch.cat(self.values)
        keep = ~self.lost[items.base]
        return (items.take(keep), values[keep]) if bool(keep.any()) else None
