"""ComfyUI's folders: of nets, trained nets, training runs and datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....controlnet_core.errors import CheckpointError, DatasetError
from ....controlnet_core.weights.load_base import TINY_FOLDER

KIND = "controlnet"
TRAINED = "controlnet"
"""Where in the output folder trained nets go."""
RUNS = "controlnet_runs"
"""Where in the output folder the run folders are: beside the nets, so that no loader lists checkpoints."""
DATASETS = "datasets"
DATASET_PARTS = ("images", "hints", "captions", "source", "target")
DEPTH = 2
"""How many levels of folders are searched for datasets."""


def register_folders() -> None:
    """Let every loader list the nets that come with the small base, and those that were trained here."""
    folder_paths.add_model_folder_path(KIND, str(TINY_FOLDER / "nets"))
    folder_paths.add_model_folder_path(KIND, os.path.join(folder_paths.get_output_directory(), TRAINED))


def controlnet_names() -> list[str]:
    """The names of all installed nets, as loaders list them."""
    return list(folder_paths.get_filename_list(KIND))


def controlnet_path(name: str) -> Path:
    """Where the net of a name is: inside one of ComfyUI's folders, whatever the name contains.

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


def runs_path() -> Path:
    """Where the run folders are."""
    return Path(folder_paths.get_output_directory()) / RUNS


def trained_path(name: str) -> Path:
    """Where a trained net goes."""
    return Path(folder_paths.get_output_directory()) / TRAINED / name


def dataset_names() -> list[str]:
    """The folders with training data that can be chosen: those in ComfyUI's `input` and `datasets` folders."""
    return sorted(_datasets())


def dataset_path(name: str) -> Path:
    """Where the folder of a dataset is: inside one of ComfyUI's folders, whatever the name contains.

    Raises:
        DatasetError: If there is none.
    """
    path = _datasets().get(name)
    if path is None:
        raise DatasetError(
            found=f"no folder {name!r}",
            expected=f"a folder in {folder_paths.get_input_directory()} or in {', '.join(_dataset_roots())}",
            do="put it or a link to it there, or add its place to `datasets` in extra_model_paths.yaml; then press R",
        )
    return path


def _dataset_roots() -> list[str]:
    """ComfyUI's folders for datasets."""
    known = folder_paths.folder_names_and_paths
    return list(folder_paths.get_folder_paths(DATASETS)) if DATASETS in known else []


def _datasets() -> dict[str, Path]:
    """The folders that may hold training data, by the names that are listed."""
    roots = [("input", folder_paths.get_input_directory()), *((DATASETS, root) for root in _dataset_roots())]
    found: dict[str, Path] = {}
    for kind, root in roots:
        for path in _folders_below(Path(root), DEPTH):
            found.setdefault(f"{kind}/{path.relative_to(root).as_posix()}", path)
    return found


def _folders_below(folder: Path, depth: int) -> Iterator[Path]:
    """The folders in a folder, except the parts of datasets."""
    if depth == 0 or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in DATASET_PARTS:
            yield path
            yield from _folders_below(path, depth - 1)
