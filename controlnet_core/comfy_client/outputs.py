"""The files that a workflow made: their names here, and their way into a folder."""

from __future__ import annotations

import filecmp
import os
import re
from pathlib import Path

from ..errors import WriteError
from ..whole_file import whole_file
from .answers import Entry, Output
from .connection import Connection
from .failures import ServerError
from .limits import Limits
from .texts import visible

FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')
"""What some system refuses in a name, or a terminal obeys."""
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices."""
LENGTH = 200
"""The bytes of a name; systems take 255, with the number and the mark of an unfinished file."""


def outputs_of(entry: Entry, limits: Limits) -> list[tuple[str, Output]]:
    """The files of a finished job, each with the id of its node: those it saved, or its previews if it saved none.

    Raises:
        ServerError: If there are more than the limits allow.
    """
    found = [(node_id, output) for node_id, outputs in entry.outputs.items() for output in outputs]
    if len(found) > limits.files:
        do = "copy them from the server's output folder"
        raise ServerError(f"{len(found)} output files", f"at most {limits.files}", do)
    return [one for one in found if one[1].kind == "output"] or found


def file_name(name: str) -> str:
    """The name under which a server's file is written: its last part, with what could mean anything else replaced.

    Raises:
        ServerError: If nothing is left.
    """
    last = re.split(r"[/\\]", name)[-1].rstrip(". ")
    if not last:
        raise ServerError(f"an output file called {visible(name, 80)!r}", "a name", "look for it on the server")
    plain = FORBIDDEN.sub("_", last)
    plain = f"_{plain}" if DEVICES.match(plain) else re.sub(r"^[.\-~]", "_", plain)
    stem, suffix = os.path.splitext(plain)
    if len(suffix.encode()) > LENGTH // 4:
        stem, suffix = plain, ""
    return stem.encode()[: LENGTH - len(suffix.encode())].decode(errors="ignore") + suffix


async def fetch(connection: Connection, output: Output, folder: Path) -> Path:
    """Write a file that a workflow made into a folder; another file of that name there is kept, an equal one is found.

    Raises:
        ServerError: If it cannot be fetched.
        WriteError: If it cannot be written.
    """
    params = {"filename": output.filename, "subfolder": output.subfolder, "type": output.kind}
    *taken, free = _names(folder / file_name(output.filename), connection.limits.namesakes)
    with whole_file(free) as temporary, temporary.open("wb") as file:
        try:
            await connection.download("/view", params, file.write)
        except ServerError as error:
            found = f"that {visible(output.filename, 200)} cannot be fetched: {error.found}"
            raise ServerError(found, "the file", "look for it on the server") from error
    for path in taken:
        if _is_plain(path) and filecmp.cmp(path, free, shallow=False):
            free.unlink()
            return path
    return free


def _names(path: Path, most: int) -> list[Path]:
    """A file's name, and those with numbers, up to the first that is free."""
    names = [path]
    while os.path.lexists(names[-1]):
        if len(names) == most:
            raise WriteError(f"{most} files called {path.name} in {path.parent}", "fewer", "choose another folder")
        names.append(path.with_stem(f"{path.stem}_{len(names)}"))
    return names


def _is_plain(path: Path) -> bool:
    """Whether it is a file, and no link to one."""
    return path.is_file() and not path.is_symlink()
