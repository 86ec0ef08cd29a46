"""The device that a user names."""

from __future__ import annotations

from textwrap import shorten

import torch

from ..errors import SettingError

LONGEST_REASON = 80
"""Characters: some of torch's messages name every kind of device."""


def chosen_device(name: str) -> torch.device:
    """Find a device.

    Arguments:
        name: "cpu", "cuda", "cuda:1", "mps", ...; "auto" is the first CUDA device, or the CPU where there is none.

    Raises:
        SettingError: If there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tensor = torch.ones(1, device=name)
        tensor.item()  # the device "meta" holds no numbers
    # torch has no such device; it was built without CUDA; a module for this kind of device is not installed
    except (RuntimeError, AssertionError, ImportError) as error:
        raise SettingError(
            found=f"device = {name!r} ({shorten(str(error), LONGEST_REASON, placeholder='...')})",
            expected="auto, cpu, or a device of this machine such as cuda or cuda:1",
            do="use auto, which chooses one that exists",
        ) from error
    return tensor.device
