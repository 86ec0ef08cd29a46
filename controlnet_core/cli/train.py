"""`controlnet-core train`: trains a ControlNet as a settings file says."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UNREADABLE
from .output import note, speaking
from .parser import Commands, new_command
from .picture_files import check_writable
from .watch import print_run, train_watched

if TYPE_CHECKING:
    import torch

    from ..base import Base
    from ..data.dataset import PairDataset
    from ..training.job import FolderData, ShapesData, TrainJob
    from ..training.report import ShownValidation

DESCRIPTION = """\
Train a ControlNet on a locked base, as a settings file in TOML says. Each run
has a folder, named by everything that affects its net. If interrupted, the same
command resumes; a finished run is read back. With more steps, or another
cool-down, a run starts from the furthest checkpoint that it shares with an
earlier one. Ctrl-C and SIGTERM end the step, write a checkpoint and exit with
130; a second Ctrl-C stops at once. Started by torchrun, several processes, each
with a GPU of its own, train one net."""

EPILOG = """\
SETTINGS.toml may hold the following; what it leaves out has the value shown.
Only `kind` in [data] is required, and `path` for a folder. Paths are relative
to the current folder.

{settings}
{shapes}
or, instead of the last table,

{folder}
example, with a file of two lines:
  printf '[data]\\nkind = "shapes"\\n' > shapes.toml
  controlnet-core train shapes.toml --set steps=600 --set learning_rate=3e-4

the same on the eight GPUs of one machine:
  torchrun --nproc-per-node 8 -m controlnet_core train shapes.toml
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "train", "train a ControlNet", DESCRIPTION, _epilog)
    add = parser.add_argument
    add("settings", metavar="SETTINGS.toml", type=Path, help="the settings file, explained below")
    add("--base", metavar="PATH|tiny", help="the base to train on (default: `path` in [base] of the file)")
    changes = "a value to use instead of the file's, such as evaluation.every=100; may be repeated (default: none)"
    add("--set", metavar="KEY=VALUE", dest="changes", type=change, action="append", default=[], help=changes)
    add("--out", metavar="DIR", help="the folder that holds the run folders (default: `out` of the file)")
    add("--tensorboard", action="store_true", help="also write tensorboard/ into the run's folder (default: no)")


def _epilog() -> str:
    """All settings, and an example."""
    from ..training.describe import data_table, settings_file
    from ..training.job import FolderData, ShapesData

    return EPILOG.format(settings=settings_file(), shapes=data_table(ShapesData), folder=data_table(FolderData))


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..training.job import read_job
    from ..training.launch import device_of_rank, joined_ranks
    from .device import chosen_device

    given = {"base.path": arguments.base, "out": arguments.out}
    changes = dict(arguments.changes) | {name: value for name, value in given.items() if value is not None}
    job = read_job(arguments.settings, changes)
    device = chosen_device(device_of_rank(job.settings.device))
    with joined_ranks(device) as ranks, speaking(ranks.is_first):
        check_writable(job.settings.out)
        base, dataset, validation = opened(job, device)
        if validation is None:
            note("too few pairs to hold any out: how well hints are followed is not measured")
        title = f"{base.family.unet.family} ControlNet trained on {described(job.data)}"
        path, report = train_watched(
            job.settings, base, dataset, validation, title, arguments.tensorboard, ranks
        )
        print_run(path, report, arguments.json)
    return 0


def change(text: str) -> tuple[str, Any]:
    """Read `key=value`; a value that is not TOML is taken as text."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE, such as steps=600")
    try:
        values = tomllib.loads(f"value = {value}")
    except UNREADABLE:
        return key.strip(), value
    return key.strip(), values["value"] if len(values) == 1 else value


def opened(job: TrainJob, device: torch.device) -> tuple[Base, PairDataset, ShownValidation | None]:
    """Load the base and open the data of a job."""
    import torch

    from ..training.open_data import open_data
    from ..weights.load_base import load_base

    note(f"loading the base {job.base.path}")
    base = load_base(job.base.path, device=device, dtype=torch.float32, tokenizer=job.base.tokenizer)
    return base, *open_data(job.data, job.settings, base)


def described(data: ShapesData | FolderData) -> str:
    """The data of a job, for a headline."""
    return f"{data.hint.replace('_', ' ')}s of shapes" if data.kind == "shapes" else str(data.path)
