"""The version of this package."""

from __future__ import annotations

__version__ = "0.1.0"
"""As in pyproject.toml, which ComfyUI does not read when it loads the repository as a folder."""
