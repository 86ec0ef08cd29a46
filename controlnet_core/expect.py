"""Shape checks at the public doors, written as the docstrings write shapes."""

from __future__ import annotations

from torch import Tensor

from .errors import TensorShapeError


def expect(tensor: Tensor, shape: str, name: str, **sizes: int) -> None:
    """Check a tensor's shape against words such as ``"B 4 h w"``.

    Arguments:
        tensor: The tensor to check.
        shape: One word for each dimension: a number must match; a name given in `sizes` must match
            that size; any other name stands for any positive size, the same wherever it is repeated.
        name: What the tensor is called in the message.
        sizes: Known sizes by name.

    Raises:
        TensorShapeError: If the tensor has another shape.
    """
    words = shape.split()
    known = dict(sizes)
    fits = tensor.ndim == len(words)
    for word, size in zip(words, tensor.shape, strict=False):
        wanted = int(word) if word.isdigit() else known.setdefault(word, size)
        fits = fits and size == wanted and size > 0
    if fits:
        return
    given = "".join(f", {word} = {size}" for word, size in sizes.items())
    raise TensorShapeError(
        found=f"{name} with shape {tuple(tensor.shape)}",
        expected=f"({', '.join(words)}){given}",
        do=f"give {name} in that shape",
    )
