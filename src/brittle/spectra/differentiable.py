"""The scalars of a spectrum as torch functions."""

from functools import cache
from typing import TYPE_CHECKING, Any

from brittle.about import About
from brittle.spectra.value_and_gradient import value_and_gradient

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = About(
    promise="a scalar of the spectrum that torch can differentiate once, to train with",
    reference="as of value_and_gradient",
    leaves=(),
    cost="no pass; that of the quantity, in double precision on the CPU",
)


def differentiable(
    matrix: "Tensor",
    quantity: str,
    *,
    epsilon: float | None = None,
    point: complex | None = None,
    steps: int = 100,
    tied: float = 0.0,
    tolerance: float = 1e-2,
) -> "Tensor":
    """A scalar tensor of the dtype (real part) and on the device of ``matrix``, whose backward pass is that of :func:`value_and_gradient`.

    Value and gradient are computed together in double precision on the CPU, when the value is: no factorisation is differentiated through, and
    the backward pass multiplies. A second derivative is refused by torch rather than told as zero.

    Guarantee and errors: as :func:`value_and_gradient`.

    >>> import torch
    >>> a = torch.tensor([[0.5, 0.9], [0.0, 0.5]], requires_grad=True)
    >>> value = differentiable(a, "commutator")
    >>> value.backward()
    >>> round(value.item(), 5), [[round(g, 4) for g in row] for row in a.grad.tolist()]
    (1.14551, [[0.0, 2.5456], [0.0, 0.0]])
    """
    return _function().apply(matrix, quantity, epsilon, point, steps, tied, tolerance)


@cache
def _function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Spectral(torch.autograd.Function):
        """value_and_gradient, seen from torch."""

        @staticmethod
        def forward(ctx, matrix, quantity, epsilon, point, steps, tied, tolerance):
            value, gradient = value_and_gradient(
                matrix, quantity, epsilon=epsilon, point=point, steps=steps, tied=tied, tolerance=tolerance
            )
            ctx.save_for_backward(torch.as_tensor(gradient).to(matrix))
            return matrix.new_tensor(value, dtype=matrix.real.dtype)

        @staticmethod
        @once_differentiable
        def backward(ctx, upstream):  # pyright: ignore[reportIncompatibleMethodOverride]
            return (upstream * ctx.saved_tensors[0], None, None, None, None, None, None)

    return Spectral
