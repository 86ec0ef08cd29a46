"""Where ComfyUI keeps ControlNets."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...controlnet_core.errors import CheckpointError
from ...controlnet_core.weights.load_base import TINY_FOLDER

KIND = "controlnet"
TRAINED = "controlnet"
"""Where in the output folder trained nets go."""


def register_folders() -> None:
    """Let every loader list the nets that come with the small base, and those that were trained here."""
    folder_paths.add_model_folder_path(KIND, str(TINY_FOLDER / "nets"))
    folder_paths.add_model_folder_path(KIND, os.path.join(folder_paths.get_output_directory(), TRAINED))


def controlnet_names() -> list[str]:
    """The names of all installed nets, as loaders list them."""
    return list(folder_paths.get_filename_list(KIND))


def controlnet_path(name: str) -> Path:
    """Where a net of that name is, which is inside one of ComfyUI's folders whatever the name contains.

    Raises:
        CheckpointError: If there is none.
    """
    path = folder_paths.get_full_path(KIND, name)
    if path is None:
        raise CheckpointError(
            found=f"no ControlNet {name!r}",
            expected=f"a file in one of {', '.join(folder_paths.get_folder_paths(KIND))}",
            do="put it there and press R, or choose another",
        )
    return Path(path)
