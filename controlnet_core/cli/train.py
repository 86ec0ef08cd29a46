"""`controlnet-core train`: trains a ControlNet as a settings file says."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import note
from .parser import Commands, new_command
from .picture_files import check_writable
from .watch import print_run, train_watched

if TYPE_CHECKING:
    from ..base import Base
    from ..data.pairs import PairDataset
    from ..training.job import AnyJob, FolderData, ShapesData
    from ..training.result import ShownValidation

DESCRIPTION = """\
Train a ControlNet on a locked base, as a settings file in TOML says. A run has
a folder of its own, named by a hash of settings, base and data: the same
command goes on with a run that was stopped, and reads a finished one back.
Ctrl-C ends the step, writes a checkpoint and exits with 130; a second one stops
at once."""

EVERY_SETTING = """\
steps = 10000               # optimizer steps in all
batch_size = 4              # pairs of one step
learning_rate = 1e-5        # constant between warm-up and cool-down
warm_up_steps = 0           # the first steps, in which it rises from zero
cool_down_steps = 0         # the last steps, in which it falls to zero
weight_decay = 0.01         # of AdamW
gradient_clip = 1.0         # the largest norm of the gradient
average_decay = 0.999       # the average of the weights is evaluated and saved
prompt_drop = 0.5           # the share of prompts replaced by the empty one
hint_encoder = "reference"  # which every tool loads, or "paper"
seed = 0                    # of every random draw
checkpoint_every = 500      # steps
device = "auto"             # cuda where there is one; or "cpu", "cuda:1", ...
out = "runs"                # the folder that holds the folders of runs

[evaluation]                # are held-out hints followed?
every = 300                 # steps
hints = 16                  # how many are drawn each time
sampling_steps = 20
guidance = 7.5
sides = "both"              # of guidance, that control acts on; or "conditional"

[base]
path = "tiny"               # the small base of this package, a safetensors file
                            # or a diffusers folder
# tokenizer = "clip"        # a folder with CLIP's vocab.json and merges.txt
                            # (default: found beside the base)

[data]
kind = "shapes"             # pairs made by the shapes generator
count = 2000                # pairs
# size = 64                 # side in pixels (default: the base's own)
seed = 0
hint = "outline"            # or "colour_map"
"""
FOLDER_DATA = """\
[data]
kind = "folder"             # pictures of your own
path = "photos"             # holds images/NAME.png, hints/NAME.png and
                            # captions/NAME.txt, or prompt.json as fill50k has,
                            # or metadata.jsonl as Hugging Face has
# size = 512                # side in pixels (default: the base's own)
hint = "files"              # or made of the pictures: "canny", "blur", "grey"
canny = [0.1, 0.2]          # the two thresholds of "canny"
blur = 8.0                  # of "blur": standard deviation in pixels
"""

EPILOG = f"""\
SETTINGS.toml may hold the following; what it leaves out has the value shown.
Only `kind` in [data] has to be there, and the `path` of a folder. Paths start
at the folder you are in.

{EVERY_SETTING}
or, in place of the last table,

{FOLDER_DATA}
example, with a file of two lines:
  printf '[data]\\nkind = "shapes"\\n' > shapes.toml
  controlnet-core train shapes.toml --set steps=600 --set learning_rate=3e-4
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "train", "train a ControlNet", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("settings", metavar="SETTINGS.toml", type=Path, help="the settings file, explained below")
    add("--base", metavar="PATH|tiny", help="the base to train on (default: `path` in [base] of the file)")
    words = "a value in place of the file's, such as evaluation.every=100; can be repeated (default: none)"
    add("--set", metavar="KEY=VALUE", dest="changes", type=change, action="append", default=[], help=words)
    add("--out", metavar="DIR", help="the folder that holds the folders of runs (default: `out` of the file)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..training.job import read_job

    given = {"base.path": arguments.base, "out": arguments.out}
    changes = dict(arguments.changes) | {name: value for name, value in given.items() if value is not None}
    job = read_job(arguments.settings, changes)
    check_writable(job.out)
    base, dataset, validation = opened(job)
    if validation is None:
        note("too few pairs to keep any from training: how well hints are followed is not measured")
    title = f"{base.family.unet.family} ControlNet trained on {described(job.data)}"
    path, report = train_watched(job.settings(), base, dataset, validation, title)
    print_run(path, report, arguments.json)
    return 0


def change(text: str) -> tuple[str, Any]:
    """Read `key=value`; a value that is no TOML is a text."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE, such as steps=600")
    try:
        values = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key.strip(), value
    return key.strip(), values["value"] if len(values) == 1 else value


def opened(job: AnyJob) -> tuple[Base, PairDataset, ShownValidation | None]:
    """Load the base and open the data of a job."""
    import torch

    from ..training.opening import open_data
    from ..weights.load_base import load_base
    from .device import chosen_device

    device = chosen_device(job.device)
    note(f"loading the base {job.base.path}")
    base = load_base(job.base.path, device=device, dtype=torch.float32, tokenizer=job.base.tokenizer)
    return base, *open_data(job.data, job.evaluation, base)


def described(data: ShapesData | FolderData) -> str:
    """The data of a job, for a headline."""
    return f"{data.hint.replace('_', ' ')}s of shapes" if data.kind == "shapes" else str(data.path)
