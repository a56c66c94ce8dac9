"""Which recurrent maps does a network hold?"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._cells import GATES, Cell, standard

ABOUT = About(
    promise="every recurrent map of a module, layer by layer and direction by direction, with gate blocks and derivatives in closed form",
    reference="torch.nn's documented recurrences",
    leaves=("parameter",),
)
SOUGHT = "RNN, GRU, LSTM, RNNCell, GRUCell or LSTMCell"
_LAYER = re.compile(r"(?P<owner>.*?)\.?weight_hh(_l(?P<layer>\d+)(?P<reverse>_reverse)?)?")


def cells(module: nn.Module | Mapping[str, Tensor], *, live: bool = False) -> tuple[Cell, ...]:
    """Every RNN, GRU and LSTM layer and direction and every RNNCell, GRUCell and LSTMCell of a module, in its own order.

    A cell maps the flat state (for an LSTM: hidden, then memory) and an input to the next state; its derivative by the state is given in closed
    form, equal to automatic differentiation to rounding (tested to 1e-12). Gate blocks are the square recurrent matrices: rows of ``weight_hh``
    in torch's order (r, z, n and i, f, g, o), times ``weight_hr`` where the layer has a projection. Parametrised weights are read as they act.

    module : any ``torch.nn.Module``, or a mapping of tensors such as a state dict. Of a mapping, and of a TorchScript module, only names and
             shapes are read, so an RNN is taken for one of tanh
    live   : the module's own tensors, dtype and graph, for training; by default detached copies in float64 on the CPU
    Returns () where there is none. Errors: InputError where a recurrent weight is not finite, naming it.

    >>> [(c.name, c.kind, c.size, list(c.blocks)) for c in cells(nn.GRU(3, 4, num_layers=2))]
    [('l0', 'gru', 4, ['r', 'z', 'n']), ('l1', 'gru', 4, ['r', 'z', 'n'])]
    """
    keep = (lambda t: t) if live else lambda t: t.detach().to("cpu", torch.float64)
    if isinstance(module, (Mapping, torch.jit.ScriptModule)):
        return _from_state(module if isinstance(module, Mapping) else module.state_dict(), keep)
    found: list[Cell] = []
    for owner, child in module.named_modules():
        if isinstance(child, nn.RNNBase):
            found += _layers(owner, child, keep)
        elif isinstance(child, nn.RNNCellBase):
            kind = _kind(child.nonlinearity if isinstance(child, nn.RNNCell) else type(child).__name__)
            read = lambda name, child=child: getattr(child, name, None)
            found.append(standard(owner, kind, _checked(owner, read, "", keep), owner=owner))
    return tuple(found)


def _layers(owner: str, module: nn.RNNBase, keep: Callable[[Tensor], Tensor]) -> list[Cell]:
    kind = _kind(module.mode)
    made = []
    for layer in range(module.num_layers):
        for reverse in (False, True)[: 1 + module.bidirectional]:
            ending = f"_l{layer}{'_reverse' if reverse else ''}"
            weights = _checked(owner, lambda name: getattr(module, name, None), ending, keep)
            made.append(_placed(owner, kind, weights, layer, reverse))
    return made


def _placed(owner: str, kind: str, weights: Mapping[str, Tensor], layer: int, reverse: bool) -> Cell:
    name = ".".join(filter(None, (owner, f"l{layer}", "reverse" if reverse else "")))
    return standard(name, kind, weights, owner=owner, layer=layer, reverse=reverse)


def _checked(
    owner: str, read: Callable[[str], Tensor | None], ending: str, keep: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The weight tensors of one cell by short name; refuses what is not finite."""
    names = {"ih": "weight_ih", "hh": "weight_hh", "bih": "bias_ih", "bhh": "bias_hh", "hr": "weight_hr"}
    found = {}
    for short, long in names.items():
        value = read(long + ending)
        if value is None:
            continue
        if not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            where = ".".join(filter(None, (owner, long + ending)))
            raise InputError(
                f"weights of {where}",
                "finite numbers",
                f"{bad} of {value.numel()} that are NaN or infinite",
                "load a checkpoint from before training diverged",
            )
        found[short] = keep(value)
    return found


def _from_state(state: Mapping[str, Tensor], keep: Callable[[Tensor], Tensor]) -> tuple[Cell, ...]:
    """Layers by the names of their tensors; the number of gates is the ratio of the sides of ``weight_hh``."""
    found = []
    for key in state:
        match = _LAYER.fullmatch(key)
        if match is None:
            continue
        owner, layer, back = match["owner"], match["layer"], bool(match["reverse"])
        ending = "" if layer is None else f"_l{layer}{'_reverse' if back else ''}"
        prefix = f"{owner}." if owner else ""
        weights = _checked(owner, lambda name, prefix=prefix: state.get(prefix + name), ending, keep)
        kind = _of_shape(key, weights)
        if layer is None:
            found.append(standard(owner, kind, weights, owner=owner))
        else:
            found.append(_placed(owner, kind, weights, int(layer), back))
    return tuple(found)


def _of_shape(key: str, weights: Mapping[str, Tensor]) -> str:
    rows, columns = weights["hh"].shape
    gates = 4 if "hr" in weights else rows // columns
    kind = {1: "tanh", 3: "gru", 4: "lstm"}.get(gates)
    if kind is None or rows % gates or "ih" not in weights or len(weights["ih"]) != rows:
        raise InputError(
            f"tensor {key}",
            "1, 3 or 4 square blocks below each other and a weight_ih beside it",
            f"shape {rows} x {columns}",
            "pass the module itself, or the matrix",
        )
    return kind


def _kind(word: str) -> str:
    """torch's word for a recurrence as ours.

    >>> _kind("RNN_RELU"), _kind("GRUCell"), _kind("tanh")
    ('relu', 'gru', 'tanh')
    """
    return next(kind for kind in GATES if kind in word.lower())
