"""Write docs/settings.md, the page that lists all settings, from the descriptions in their fields.

    python tools/make_settings_page.py
"""

from __future__ import annotations

from pathlib import Path

from controlnet_core.training.describe import settings_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """\
# Settings of a training run

What a settings file of `controlnet-core train` may hold. The Train ControlNet node has the settings of the first two
tables as widgets, and its `settings_toml` takes them as they stand here. Made by `tools/make_settings_page.py`.

"""

if __name__ == "__main__":
    PAGE.write_text(HEAD + settings_page(), encoding="utf-8")
