"""Gives README.md absolute links when a wheel or sdist is built, for pages such as that of PyPI.

Links lead to the files of the release's tag. Its picture comes from jsDelivr: a page shows an image
of another host only if that serves it as one, and GitHub serves SVG as text.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PROJECT = "valetkey/valetkey"
_RELATIVE = r"\]\((?!#)([^):\s]+)\)"  # with a colon, it leads to another site


def absolute_links(text: str, version: str) -> str:
    """Return Markdown in which relative links and pictures are those of the release's tag."""
    files = f"https://github.com/{PROJECT}/blob/v{version}/"
    pictures = f"https://cdn.jsdelivr.net/gh/{PROJECT}@v{version}/"
    return re.sub(
        _RELATIVE,
        lambda link: f"]({pictures if link[1].endswith('.svg') else files}{link[1]})",
        text,
    )


class ReadmeHook(MetadataHookInterface):
    """The hook of pyproject.toml that hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to the metadata of the package."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute_links(text, metadata["version"]),
        }
