"""Makes the editor's workflows from those in the API format, with ComfyUI's own frontend, and their thumbnails.

    python tools/make_workflows.py http://127.0.0.1:8188 [NAME ...]

A ComfyUI with this extension must run there. For each file in workflows/api, or those named, it writes
workflows/NAME.json, which gives back the same prompt when it is queued, and workflows/NAME.jpg: what the graph draws on
the small base, which is run for that, or a picture of the graph.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from controlnet_core.cli.queue import queued  # noqa: E402 - the repository's own, wherever this is run
from controlnet_core.comfy_client.workflow import Workflow, read_workflow  # noqa: E402
from tools.browser import Page, new_page  # noqa: E402

HUB = "https://huggingface.co"
SD15_NETS = f"{HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main"
MODELS = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "checkpoints",
    ),
    "sd_xl_base_1.0.safetensors": (
        f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "checkpoints",
    ),
    "diffusers_xl_canny_full.safetensors": (
        f"{HUB}/lllyasviel/sd_control_collection/resolve/main/diffusers_xl_canny_full.safetensors",
        "controlnet",
    ),
    **{
        name: (f"{SD15_NETS}/{name}", "controlnet")
        for name in (
            "control_v11p_sd15_canny_fp16.safetensors",
            "control_v11f1p_sd15_depth_fp16.safetensors",
            "control_v11p_sd15_openpose_fp16.safetensors",
        )
    },
}
NOTES = {
    "tiny_apply": "Press Run; no download and no GPU are needed. The small base draws six pictures that follow six "
    "outlines.\n\nThen change the prompt to *a yellow square on a pink background*, or set **strength** to 0.3, "
    "or **side** to *both*: what changes?",
    "tiny_stack": "Two nets and no prompt: one gives the shape, the other the colours. Their effects add up.\n\n"
    "Chain as many Stack nodes as you like, and connect the prompts to the last one.",
    "tiny_train": "Press Run: a net is trained on the small base in minutes and draws in the same graph. Watch "
    "*following* on the node: it jumps.\n\nInterrupt at any time; Run resumes. A finished run is read back. The net "
    "is in `output/controlnet`.",
    "sd15_train": "Put your pairs into `input`: a folder with `images`, `hints` and `captions`, or fill50k "
    "as it is. Then choose the folder.\n\nInterrupt at any time; Run resumes.",
    "sd15_apply": "Choose a picture; its edges steer the drawing.\n\nModels go into `models/checkpoints` and "
    "`models/controlnet`.",
    "sdxl_apply": "Choose a picture; its edges steer the drawing.\n\nModels go into `models/checkpoints` and "
    "`models/controlnet`.",
    "sd15_stack": "Choose a depth map and a pose of the same size. No prompt is needed: with the curve "
    "*cfg_resolution_normalised*, guidance strengthens the hints.\n\nModels go into `models/checkpoints` and "
    "`models/controlnet`.",
}
STARTED = "!!(window.app?.graph && LiteGraph.registered_node_types.ApplyControlNet)"
READY = STARTED + " && !!app.graph._nodes.length"
"""The editor has opened its own first graph, which would otherwise come after ours."""
NOT_FIRST_TIME = "fetch('/api/settings/Comfy.TutorialCompleted', { method: 'POST', body: 'true' }).then(() => true)"
ARRANGE = """\
(({ note: text, models: known }) => {
  const nodes = app.graph._nodes, depth = new Map();
  const room = { LoadControlNet: [360, 170], TrainControlNet: [450, 960],
    ControlNetCoreDataset: [360, 560], PreviewImage: [360, 390], SaveImage: [420, 420], LoadImage: [300, 330] };
  for (const node of nodes) node.setSize(room[node.type] ?? [Math.min(node.size[0], 330), node.size[1]]);
  const level = (node) => {
    if (!depth.has(node)) {
      depth.set(node, 0);
      const before = (node.inputs ?? []).map((one, slot) => node.getInputNode(slot)).filter(Boolean);
      depth.set(node, Math.max(0, ...before.map((one) => level(one) + 1)));
    }
    return depth.get(node);
  };
  nodes.forEach(level);
  const columns = [];
  for (const [node, column] of depth) (columns[column] ??= []).push(node);
  let x = 0;
  for (const column of columns) {
    let y = 0;
    for (const node of column) {
      node.pos = [x, y];
      y += node.size[1] + 60;
    }
    x += Math.max(...column.map((node) => node.size[0])) + 50;
  }
  const note = LiteGraph.createNode("MarkdownNote");
  note.title = "Read me";
  note.pos = [0, -240];
  note.size = [430, 160];
  app.graph.add(note);
  note.widgets[0].value = text;
  for (const node of nodes) {
    const models = (node.widgets ?? []).map((widget) => known[widget.value]).filter(Boolean);
    if (models.length) node.properties.models = models;
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
  }
})
"""
SHOW = """\
(async () => {
  const bounds = app.graph._nodes.map((node) => [node.pos[0], node.pos[1] - 40, ...node.size]);
  const left = Math.min(...bounds.map((one) => one[0])), top = Math.min(...bounds.map((one) => one[1]));
  const right = Math.max(...bounds.map((one) => one[0] + one[2]));
  const end = Math.max(...bounds.map((one) => one[1] + one[3] + 40));
  const scale = Math.min(1400 / (right - left), 840 / (end - top));
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [110 / scale - left, 80 / scale - top];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 1500));
})()
"""


async def main(server: str, names: list[str]) -> None:
    """Make all workflows, or those named."""
    for path in sorted((ROOT / "workflows" / "api").glob("*.json")):
        if names and path.stem not in names:
            continue
        workflow = read_workflow(path)
        async with new_page() as page:
            picture = await editor_workflow(page, server, path.stem, workflow)
        if path.stem.startswith("tiny_"):
            picture = await drawn(server, workflow)
        thumbnail = picture.convert("RGB")
        thumbnail.thumbnail((1024, 1024))
        thumbnail.save(ROOT / "workflows" / f"{path.stem}.jpg", quality=88)
        print(f"workflows/{path.stem}.json and .jpg")


async def open_editor(page: Page, server: str) -> None:
    """Open the editor as for somebody who was there before, whom it does not welcome with a dialog."""
    await page.open(server, 1600, 1000)
    await page.until(STARTED)
    await page.run(NOT_FIRST_TIME)
    await page.open(server, 1600, 1000)
    await page.until(READY)


async def editor_workflow(page: Page, server: str, name: str, workflow: Workflow) -> Image.Image:
    """Write a workflow as the editor saves it; a picture of the graph."""
    await open_editor(page, server)
    await page.run(f"app.loadApiJson({json.dumps(workflow.nodes)}, {json.dumps(name)})")
    models = {file: {"name": file, "url": url, "directory": folder} for file, (url, folder) in MODELS.items()}
    await page.run(f"{ARRANGE.strip()}({json.dumps({'note': NOTES[name], 'models': models})})")
    saved = await page.run("app.graph.serialize()")
    prompt = await page.run("app.graphToPrompt().then((made) => made.output)")
    check_same(name, workflow, prompt)
    (ROOT / "workflows" / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    await page.run(SHOW)
    return Image.open(io.BytesIO(await page.screenshot({"x": 70.0, "y": 40.0, "width": 1500.0, "height": 900.0})))


def check_same(name: str, workflow: Workflow, prompt: dict[str, Any]) -> None:
    """See that the editor would queue what the API workflow says."""
    for node_id, node in workflow.nodes.items():
        made = prompt[node_id]
        if (made["class_type"], made["inputs"]) != (node["class_type"], node["inputs"]):
            raise SystemExit(f"{name}: the editor makes {made} of {node}")


async def drawn(server: str, workflow: Workflow) -> Image.Image:
    """Run a workflow; the pictures it saves, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        content = await queued(workflow, [], server, Path(folder))
        pictures = [Image.open(one["path"]).convert("RGB") for one in content["outputs"]]
        sheet = Image.new("RGB", (3 * 260 - 4, 2 * 260 - 4), "white")
        for number, picture in enumerate(pictures[:6]):
            sheet.paste(picture, (number % 3 * 260, number // 3 * 260))
        return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="the address of a ComfyUI with this extension")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which workflows to make (default: all)")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.server, arguments.names))
