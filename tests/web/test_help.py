"""The editor shows a node's page of help, from `js/docs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.web.conftest import Editor

PAGES = sorted((Path(__file__).resolve().parents[2] / "js" / "docs").glob("*.md"))
ADD = "(() => {{ const node = LiteGraph.createNode('{name}'); app.graph.add(node); app.canvas.selectNode(node); }})()"
INFO = "document.querySelector('[data-testid=info-button]')"
SHOWN = "document.querySelector('.node-help-content')"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_help_of_a_node_is_shown(editor: Editor, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    title = text.splitlines()[0].removeprefix("# ")
    editor.run(ADD.format(name=path.stem))
    editor.until(f"!!{INFO}")
    editor.run(f"{INFO}.click()")
    editor.until(f"{SHOWN}?.querySelector('h1')?.innerText === {title!r}")
    rows = editor.run(f"[...{SHOWN}.querySelectorAll('td:first-child code')].map((cell) => cell.innerText)")
    assert rows and all(f"| `{row}` |" in text for row in rows)
    assert len(rows) == sum(line.startswith("| `") for line in text.splitlines())
    assert not editor.complaints()
