"""Watch recurrent matrices while they are trained, at a share of the time that is fixed in advance."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra.cells import SOUGHT, cells
from brittle.spectra.distance_to_instability import distance_to_instability
from brittle.spectra.henrici import henrici
from brittle.spectra.spectral_norm import spectral_norm
from brittle.spectra.spectral_radius import spectral_radius

ABOUT = About(
    promise="spectral radius, norm, non-normality and distance to instability of every recurrent block through training, within a stated share of its time",
    reference="the quantities: Trefethen and Embree 2005; the budget is a running account, derived",
    leaves=("parameter",),
    cost="share of the training time, 2 % by default",
)
TOLERANCE = 0.02  # relative, of the distance: what a curve over training can show (folklore)


@dataclass(eq=False)
class Monitor:
    """Call it once per step; ``rows`` is what it has seen, one dictionary per block and look.

    share   of the time since its first call that it may use
    alarms  sentences on what crossed a line: a block that became unstable, or came nearer to instability than ``nearest``
    """

    module: nn.Module
    share: float
    nearest: float
    clock: Callable[[], float]
    rows: list[dict] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    steps: int = 0
    spent: float = 0.0
    began: float | None = None
    longest: float = 0.0
    following: int = 0
    unstable: set[str] = field(default_factory=set)

    def __call__(self) -> dict | None:
        """Look at the next block if the account allows it; the row, or None."""
        now = self.clock()
        self.began = now if self.began is None else self.began
        self.steps += 1
        if self.rows and self.spent + self.longest > self.share * (now - self.began):
            return None
        row = self._look()
        took = self.clock() - now
        self.spent, self.longest = self.spent + took, max(took, 0.5 * self.longest)
        return row

    @property
    def used(self) -> float:
        """The share of the time since the first call that went into looking."""
        return 0.0 if self.began is None else self.spent / max(1e-12, self.clock() - self.began)

    def _look(self) -> dict:
        blocks = [
            (f"{c.name or 'cell'} {g}".strip(), b.numpy()) for c in cells(self.module) for g, b in c.blocks.items()
        ]
        name, block = blocks[self.following % len(blocks)]
        self.following += 1
        radius = spectral_radius(block)
        distance = distance_to_instability(block, tolerance=TOLERANCE) if radius < 1 else 0.0
        row = {
            "step": self.steps,
            "block": name,
            "radius": radius,
            "norm": spectral_norm(block),
            "non_normality": henrici(block, relative=True),
            "distance_to_instability": distance,
        }
        self._alarm(row)
        self.rows.append(row)
        return row

    def _alarm(self, row: dict) -> None:
        bad = row["distance_to_instability"] <= self.nearest
        if bad and row["block"] not in self.unstable:
            what = (
                "is unstable"
                if row["radius"] >= 1
                else f"is {row['distance_to_instability']:.3g} from an unstable matrix"
            )
            self.alarms.append(f"step {row['step']}: {row['block']} {what} (spectral radius {row['radius']:.3g})")
        (self.unstable.add if bad else self.unstable.discard)(row["block"])


def monitor(
    module: nn.Module, *, share: float = 0.02, nearest: float = 0.0, clock: Callable[[], float] = time.perf_counter
) -> Monitor:
    """A watcher of ``module``'s recurrent blocks: call it in the training loop, after every step.

    It keeps an account of its own time. It looks at one block, in turn, whenever that keeps it below ``share`` of the time since its first call, judging
    by the longest look so far; so a longer training is watched at more steps, and none is slowed down by more than ``share``, but for the first
    look.

    nearest : alarms are raised where a block's distance to instability falls to this, or below; 0: where it becomes unstable
    clock   : seconds, growing

    Errors: InputError where nothing is recurrent, for a share outside (0, 1].

    >>> rnn = nn.RNN(2, 8)
    >>> watch = monitor(rnn)
    >>> for step in range(3):
    ...     _ = watch()
    >>> sorted(watch.rows[0])
    ['block', 'distance_to_instability', 'non_normality', 'norm', 'radius', 'step']
    """
    if not 0 < share <= 1:
        raise InputError("monitor share", "a number in (0, 1]", share, "use 0.02")
    if not isinstance(module, nn.Module) or not cells(module):
        raise InputError("module", f"a module that holds {SOUGHT}", type(module).__name__, "watch a recurrent network")
    return Monitor(module, share, nearest, clock)
