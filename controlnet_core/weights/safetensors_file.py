"""Safetensors files: what is in one without reading it, its tensors by copy, and writing one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..whole_file import whole_file
from .keymap import Shape
from .source import CopiedTensors

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
LENGTH_BYTES = 8
"""A file begins with the length of its header."""
PICKLE = "a pickled PyTorch checkpoint"
SIGNATURES = (
    (b"PK\x03\x04", PICKLE),
    *((b"\x80" + bytes([protocol]), PICKLE) for protocol in range(2, 6)),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched"),
    (b"<", "a web page, perhaps an error that was saved instead of the file"),
    (b"{", "a JSON file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x08", "an ONNX file, it seems"),
)
WEIGHT_NAMES = ("diffusion_pytorch_model", "model")
WEIGHT_VARIANTS = ("", ".fp16", ".bf16")
SHARD = re.compile(r"(.+)-[0-9]{5}-of-([0-9]{5})\.safetensors")
"""How the files of a model that is split in shards are called: base name, number, count."""


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file, or all shards of one, whose header was read and whose tensors were not.

    Attributes:
        path: Where it is, or one of its shards.
        shapes: The shape of each tensor.
        dtypes: The dtype of each tensor, such as "float16".
        metadata: The metadata stored with it, as texts by name.
        files: The file or shard that holds each tensor.
    """

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    files: dict[str, Path]

    @property
    def place(self) -> str:
        """Its path, for messages."""
        return str(self.path)

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Open the file and give copies of its tensors, each made when it is asked for.

        The file can be replaced while copies live: Windows does not let a mapped file be.

        Arguments:
            device: Where to put them; the CPU by default.
            dtype: What to turn floating point tensors into; None keeps the file's.
        """
        with ExitStack() as stack:
            paths = dict.fromkeys(self.files.values())
            handles = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}

            def original(name: str) -> Tensor:
                tensor: Tensor = handles[self.files[name]].get_tensor(name)
                return tensor

            yield CopiedTensors(tuple(self.shapes), original, device, dtype)


def open_tensor_file(path: str | os.PathLike[str]) -> TensorFile:
    """Read the header of a safetensors file, or of the one that a diffusers folder holds.

    Of a model that is split in shards, any shard or their folder stands for all of them.

    Raises:
        CheckpointError: If it is missing, damaged or of another format. A pickle is never opened.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise CheckpointError(f"no file {path}", "a safetensors file", "check the path")
    shards = [_header(shard) for shard in _shards(path)]
    whole = TensorFile(path, {}, {}, {}, {})
    for shard in shards:
        twice = next((key for key in shard.shapes if key in whole.shapes), None)
        if twice is not None:
            raise CheckpointError(
                found=f"{twice} in {shard.path} and in another shard",
                expected="each tensor in one shard",
                do="keep the shards of each model in a folder of its own",
            )
        for name in ("shapes", "dtypes", "metadata", "files"):
            getattr(whole, name).update(getattr(shard, name))
    return whole


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as safetensors files do, whatever its name: the length of a header, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def write_tensor_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same content makes the same bytes.

    Arguments:
        path: Where to write; a file there is replaced.
        tensors: What to write.
        metadata: Words to store with them.

    Raises:
        WriteError: If it cannot be written; what was at `path` stays.
    """
    flat = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(flat, temporary, metadata={"format": "pt", **metadata})
            _sort_metadata(temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _sort_metadata(path: Path) -> None:
    """Sort the metadata by name, in place: the library writes it in an order that differs between processes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        compact = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(compact) > length:
            raise OSError(f"a header of {length} bytes would become longer when sorted")
        file.seek(LENGTH_BYTES)
        file.write(compact.ljust(length))


def _header(path: Path) -> TensorFile:
    """Read the header of one file."""
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            dtypes = {key: DTYPES.get(part.get_dtype(), part.get_dtype()) for key, part in slices.items()}
            return TensorFile(path, shapes, dtypes, dict(handle.metadata() or {}), dict.fromkeys(shapes, path))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _shards(path: Path) -> Iterator[Path]:
    """The files that hold a model: those of all shards if one is given, otherwise the file itself."""
    found = SHARD.fullmatch(path.name)
    if found is None:
        yield path
        return
    for number in range(1, int(found[2]) + 1):
        shard = path.with_name(f"{found[1]}-{number:05}-of-{found[2]}.safetensors")
        if not shard.is_file():
            raise CheckpointError(
                found=f"{path} without {shard.name}",
                expected=f"all {int(found[2])} shards in one folder",
                do="fetch the others, too",
            )
        yield shard


def _weights_in(folder: Path) -> Path:
    """The safetensors file that diffusers and transformers keep in a model's folder."""
    for name in WEIGHT_NAMES:
        for variant in WEIGHT_VARIANTS:
            path = folder / f"{name}{variant}.safetensors"
            if path.is_file():
                return path
        first = min((path for path in folder.glob(f"{name}*.safetensors") if SHARD.fullmatch(path.name)), default=None)
        if first is not None:
            return first
    names = sorted(entry.name for entry in folder.iterdir())
    raise CheckpointError(
        found=f"a folder, {folder}, holding {', '.join(names[:5]) or 'nothing'}",
        expected="a safetensors file, or a diffusers folder with one or its shards",
        do="give the path of the file itself",
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Say what a file that is no whole safetensors file seems to be."""
    if isinstance(error, PermissionError):
        return CheckpointError(f"that {path} may not be read", "a readable file", "change its permissions")
    with path.open("rb") as file:
        start = file.read(32).lstrip()
    kind = next((description for signature, description in SIGNATURES if start.startswith(signature)), None)
    if kind == PICKLE:
        do = "fetch the safetensors version or convert it: a pickle can run any program when it is opened"
        return CheckpointError(f"{kind}, {path}", "a safetensors file", do)
    if kind is not None:
        return CheckpointError(f"{kind}, {path}", "a safetensors file", "fetch the safetensors version")
    size = path.stat().st_size
    state = f"a damaged or truncated safetensors file of {size:,} bytes ({error})" if size else "an empty file"
    return CheckpointError(f"{state}, {path}", "a whole safetensors file", "fetch or save it again")
