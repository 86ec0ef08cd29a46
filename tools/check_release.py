"""Checks that the version in pyproject.toml can be published, and prints what CHANGELOG.md says of it.

    python tools/check_release.py [TAG]

What is missing goes to standard error, one sentence each, and the exit code is 1. Only Python itself is needed.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"(0|[1-9]\d*)"
VERSION = re.compile(rf"{NUMBER}\.{NUMBER}\.{NUMBER}(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")
"""https://semver.org, without build metadata, which the registry does not know."""
URLS = ("Repository", "Documentation", "Issues")
"""The keys of [project.urls] that the registry shows."""


def problem(found: str, expected: str, do: str) -> str:
    """The sentence that says what is wrong."""
    return f"found {found}; expected {expected}; {do}"


def problems(root: Path, tag: str | None) -> list[str]:
    """Everything that keeps the version of the repository in `root` from being published.

    Arguments:
        root: The repository.
        tag: The tag that asks for the publication, or None.
    """
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    version = str(project.get("version", ""))
    return [
        *version_problems(version, package_version(root), tag),
        *changelog_problems(version, changelog(root)),
        *registry_problems(settings.get("tool", {}).get("comfy", {}), project.get("urls", {})),
    ]


def version_problems(version: str, of_package: str | None, tag: str | None) -> Iterator[str]:
    """What is wrong with the version, or does not agree with it."""
    if not VERSION.fullmatch(version):
        yield problem(
            f"version = {version!r} in pyproject.toml",
            "a semantic version, such as 1.2.3 or 1.2.3-rc.1",
            "number it as CHANGELOG.md says",
        )
    if of_package != version:
        yield problem(
            f"__version__ = {of_package!r} in controlnet_core/version.py",
            f"{version!r}, as in pyproject.toml",
            "write the same version in both",
        )
    if tag is not None and tag != f"v{version}":
        yield problem(
            f"the tag {tag!r}",
            f"'v{version}', by the version in pyproject.toml",
            "tag the commit that has the version of the tag",
        )


def changelog_problems(version: str, text: str) -> Iterator[str]:
    """What CHANGELOG.md, whose text is given, lacks of the version."""
    said = section(version, text)
    if said is None:
        yield problem(
            f"no heading '## {version} - DATE' in CHANGELOG.md",
            "one for the version to be published",
            "write there what has changed for users",
        )
        return
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", said["day"]):
        yield problem(
            f"{said['day']!r} after {version} in CHANGELOG.md",
            "the day of the release, as YYYY-MM-DD",
            "write the day on which you publish it",
        )
    if not said["notes"].strip():
        yield problem(
            f"nothing about {version} in CHANGELOG.md",
            "what has changed for users",
            "write it below the heading",
        )


def registry_problems(comfy: dict[str, Any], urls: dict[str, str]) -> Iterator[str]:
    """What the ComfyUI registry needs of [tool.comfy] and [project.urls] in pyproject.toml."""
    if not comfy.get("PublisherId"):
        yield problem(
            "no PublisherId under [tool.comfy] in pyproject.toml",
            "the id of a publisher at https://registry.comfy.org",
            "create the publisher there and write its id, which can never be changed",
        )
    if not is_url(comfy.get("Icon", "")):
        yield problem(
            f"Icon = {comfy.get('Icon', '')!r} under [tool.comfy] in pyproject.toml",
            "the https address of docs/icon.png",
            "write the address at which the public repository serves the file itself",
        )
    for name in URLS:
        if not is_url(urls.get(name, "")):
            yield problem(
                f"{name} = {urls.get(name, '')!r} under [project.urls] in pyproject.toml",
                "an https address",
                "write that of the public repository, or of its page for this",
            )


def is_url(value: str) -> bool:
    """Whether `value` is an address of the web."""
    return re.fullmatch(r"https://[^\s/]+\S*", value) is not None


def package_version(root: Path) -> str | None:
    """The text that controlnet_core assigns to `__version__`, read without importing it; None if it assigns none."""
    module = ast.parse((root / "controlnet_core" / "version.py").read_text(encoding="utf-8"))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    return None


def changelog(root: Path) -> str:
    """The text of CHANGELOG.md, empty if there is none."""
    path = root / "CHANGELOG.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def section(version: str, text: str) -> re.Match[str] | None:
    """What the text of CHANGELOG.md says of a version: the groups `day`, from its heading, and `notes`, below it."""
    heading = rf"^## {re.escape(version)}(?: - |$)(?P<day>.*)$"
    return re.search(rf"{heading}(?P<notes>(?:\n(?!## ).*)*)", text, re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Print the notes, or the problems; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tag", nargs="?", help="the tag that asks for the publication")
    found = problems(ROOT, parser.parse_args(argv).tag)
    if found:
        print(*found, sep="\n", file=sys.stderr)
        return 1
    said = section(str(package_version(ROOT)), changelog(ROOT))
    print(said["notes"].strip() if said else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
