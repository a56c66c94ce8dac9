"""H6: does the model return logits, or probabilities whose gradients vanish?"""

from torch import Tensor

from brittle.about import About
from brittle.checks._shared import correct, failed, few, passed, raw_logits, share
from brittle.problem import Problem
from brittle.results import Finding
from brittle.spec import Threshold

ABOUT = About(
    promise="H6: the outputs are logits and not probabilities or log-probabilities",
    reference="rows that sum to one, or whose log-sum-exp is zero, on every example",
    answers="before",
    cost="1 forward pass",
)
TITLE = "logits or probabilities (H6)"
TOLERANCE = 1e-3  # a row of independent logits meets this by chance on one example, never on all (folklore)


def probabilities(problem: Problem, *, seed: int = 0) -> Finding:
    """Row sums and log-sum-exps of the outputs on every example."""
    part = few(problem)
    outputs = raw_logits(part).double()
    if outputs.shape[1] == 1:
        return _one_output(part, outputs)
    sums, lse = (outputs.sum(1) - 1).abs().max(), outputs.logsumexp(1).abs().max()
    if bool(((outputs >= 0) & (outputs <= 1)).all()) and sums < TOLERANCE:
        return failed(
            "probabilities",
            TITLE,
            "warn",
            f"Every row of outputs lies in [0, 1] and sums to 1 within {float(sums):.1g}.",
            "The model returns probabilities: margins are differences of probabilities and gradients vanish where it is sure; "
            "return the logits, that is, leave out the final softmax (or take its logarithm).",
            value=f"sums off 1 by {float(sums):.1g}",
            threshold=f"{TOLERANCE:g}",
        )
    if bool((outputs <= 0).all()) and lse < TOLERANCE:
        note = f"The outputs are log-probabilities (log-sum-exp 0 within {float(lse):.1g}), whose differences are those of the logits."
        return passed(
            "probabilities", TITLE, note, value=f"log-sum-exp {float(lse):.1g}", threshold=f"{TOLERANCE:g}", remark=True
        )
    return passed(
        "probabilities",
        TITLE,
        f"Outputs run from {float(outputs.min()):.3g} to {float(outputs.max()):.3g} and are no probabilities.",
        value=f"{float(outputs.min()):.3g}..{float(outputs.max()):.3g}",
        threshold=f"{TOLERANCE:g}",
    )


def _one_output(part: Problem, outputs: Tensor) -> Finding:
    """A sigmoid output is never below the threshold 0: then one half separates the classes much better."""
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    by_half = share((outputs[:, 0] > 0.5).long().cpu() == part.labels.cpu())
    as_asked = share(correct(part, outputs))
    value = f"{float(outputs.min()):.3g}..{float(outputs.max()):.3g}"
    if inside and isinstance(part.spec, Threshold) and part.spec.threshold == 0 and by_half > as_asked:
        return failed(
            "probabilities",
            TITLE,
            "warn",
            f"The one output lies in [0, 1]; the threshold 0 gives accuracy {as_asked:.2f}, one half gives {by_half:.2f}.",
            "The model returns a probability, which is never below the threshold 0; return the logit before the sigmoid, or ask "
            "with spec=bt.Threshold(0.5).",
            value=value,
            threshold="accuracy at 0 against 0.5",
        )
    return passed(
        "probabilities",
        TITLE,
        f"The one output runs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}.",
        value=value,
    )
