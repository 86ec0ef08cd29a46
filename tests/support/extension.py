"""This extension over ComfyUI where `make test-host` runs the tests, otherwise over a small double of it."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALIAS = "controlnet_extension"


class Hidden:
    """What ComfyUI tells a node beside its inputs."""

    unique_id = "7"
    prompt = None
    extra_pnginfo = None


@dataclass(frozen=True)
class Extension:
    """This extension as a host imports it.

    Attributes:
        nodes: Its nodes by id.
        texts: What nodes say, with their ids.
        folder: Where nets may be put.
    """

    nodes: dict[str, Any]
    texts: list[tuple[str, str]]
    folder: Path

    def module(self, name: str) -> ModuleType:
        """One of its modules, by its name in the repository."""
        return importlib.import_module(f"{ALIAS}.{name}")

    @contextmanager
    def refusing(self, kind: str, match: str, running: bool = True) -> Iterator[None]:
        """Expect an error of the core: shown on the node that is running, and raised under a name without a path."""
        said = len(self.texts)
        with pytest.raises(Exception) as raised:
            yield
        error, cause = raised.value, raised.value.__cause__
        assert (type(error).__module__, type(error).__qualname__) == ("builtins", "ControlNet Core")
        assert type(cause).__name__ == kind and re.search(match, str(cause)), f"{type(cause).__name__}: {cause}"
        assert str(error) == str(cause)
        if running:
            headline, _, details = self.texts[said][1].partition("\n\n")
            assert headline.startswith("✖ ") and len(headline) <= 122 and details.endswith(".")

    def run(self, node_id: str, **inputs: object) -> tuple[Any, ...]:
        """Run a node with the id 7."""
        node = type(node_id, (self.nodes[node_id],), {"hidden": Hidden})
        values: tuple[Any, ...] = node.execute(**inputs).args  # type: ignore[attr-defined]
        return values


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Extension]:
    """The extension, over ComfyUI or its double."""
    if "comfy.options" in sys.modules:
        host = request.getfixturevalue("host")
        models = request.getfixturevalue("models")
        names = [node.GET_SCHEMA().node_id for node in sys.modules[f"{ALIAS}.nodes.extension"].NODES]
        yield Extension({name: host.nodes[name] for name in names}, host.server.texts, models.folder / "controlnet")
        return
    before = dict(sys.modules)
    yield over_the_double(tmp_path_factory.mktemp("controlnet"))
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def over_the_double(folder: Path) -> Extension:
    """Import the extension over the double, which takes the place of ComfyUI's modules in this process."""
    from tests.support import host_double

    server = host_double.install(folder)
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules[ALIAS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[ALIAS])

    async def load() -> dict[str, Any]:
        made = await sys.modules[ALIAS].comfy_entrypoint()
        await made.on_load()
        return {node.GET_SCHEMA().node_id: node for node in await made.get_node_list()}

    return Extension(asyncio.run(load()), server.texts, folder)
