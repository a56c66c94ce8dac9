"""Turn the score's gradient towards the difference of the class centroids: the nearest-centroid rule as the model to follow."""

import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._live import at_rest, cosine, flat, leaves, mean, moving, slope
from brittle.problem import Problem

ABOUT = About(
    promise="one minus the mean cosine between input gradients and differences of class centroids",
    reference="Tanay and Griffin, A boundary tilting perspective on the phenomenon of adversarial examples, arXiv 1608.07690",
    leaves=("input",),
    cost="1 forward and 3 backward passes",
)


def centroid_alignment(problem: Problem, *, seed: int = 0, centroids: Tensor | None = None) -> Tensor:
    """``mean (1 - cos(grad (f_c - f_j), m_c - m_j))`` with j the strongest rival of x's class c, and m the class centroids.

    For a linear rule the deviation from the nearest-centroid rule is what makes it fragile (Tanay and Griffin): this penalises that angle
    at every example. Cheap and blind to where in the class the example lies.

    centroids   (K, ...) one point per class; default the means of the classes within the batch. Classes without one are no rivals.

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> float(centroid_alignment(Problem(linear, x, torch.tensor([0, 1]))))
    0.0
    """
    inputs = moving(problem)
    points, labels = flat(inputs), problem.labels
    x = leaves(inputs)
    with at_rest(problem):
        logits = problem.logits(x)
        classes = max(2, logits.shape[1])
        if centroids is None:
            member = torch.nn.functional.one_hot(labels, classes).to(points.dtype).T
            counts = member.sum(1)
            centres = member @ points / counts.clamp_min(1)[:, None]
        else:
            centres, counts = centroids.to(points).reshape(len(centroids), -1), points.new_ones(classes)
        if centres.shape != (classes, points.shape[1]):
            raise InputError(
                "centroids", f"({classes}, {points.shape[1]}) points", tuple(centres.shape), "one per class"
            )
        score, rival = _score(logits, labels, counts > 0)
        way = centres[labels] - centres[rival]
        return mean(1 - cosine(slope(score, x), way), (counts > 0)[rival])


def _score(logits: Tensor, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit over that of its strongest rival among the known classes, and that rival."""
    if logits.shape[1] == 1:
        return (2 * labels - 1).to(logits.dtype) * logits[:, 0], 1 - labels
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.detach().masked_fill(~known[None, :], -torch.inf).scatter(1, labels[:, None], -torch.inf)
    rival = others.argmax(1)
    return own - logits.gather(1, rival[:, None])[:, 0], torch.where(others.amax(1).isfinite(), rival, labels)
