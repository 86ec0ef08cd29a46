"""Shape checks for public functions, in the notation of the docstrings."""

from __future__ import annotations

from torch import Tensor

from .errors import TensorShapeError


def expect(tensor: Tensor, shape: str, name: str, **sizes: int) -> None:
    """Check a tensor's shape against a pattern such as ``"B 4 h w"``.

    Arguments:
        tensor: The tensor to check.
        shape: One entry for each dimension: a number must match; a name given in `sizes` must match
            that size; any other name matches any positive size, the same wherever it is repeated.
        name: What the tensor is called in the message.
        sizes: Known sizes by name.

    Raises:
        TensorShapeError: If the tensor has another shape.
    """
    dimensions = shape.split()
    known = dict(sizes)
    fits = tensor.ndim == len(dimensions)
    for dimension, size in zip(dimensions, tensor.shape, strict=False):
        expected = int(dimension) if dimension.isdigit() else known.setdefault(dimension, size)
        fits = fits and size == expected and size > 0
    if fits:
        return
    given = "".join(f", {dimension} = {size}" for dimension, size in sizes.items())
    raise TensorShapeError(
        found=f"{name} with shape {tuple(tensor.shape)}",
        expected=f"({', '.join(dimensions)}){given}",
        do=f"give {name} in that shape",
    )
