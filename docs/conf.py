"""The configuration of Sphinx, which builds the site from README.md and docs/."""

import re
import sys
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import valetkey
from valetkey.wire import RELEASE

sys.path.insert(0, str(Path(__file__).parents[1]))  # worker/ is not installed

project = "valetkey"
release = RELEASE
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
# Pages link to each other as GitHub resolves it, so the source is the whole checkout.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "examples/*/README.md"]
exclude_patterns = ["docs/contract/*.json"]
html_theme = "furo"
html_title = f"valetkey {RELEASE}"
html_show_sourcelink = False
html_show_copyright = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
default_role = "code"  # of docstrings, which are written like Markdown
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseModel, BaseException, Exception, str, Enum, tuple, dict",
}
copybutton_exclude = ".linenos, .gp, .go"


def _drop_limits(_app: Any, described: Any, _is_method: bool) -> None:  # noqa: FBT001 - Sphinx's
    """Leave only the types of a signature: limits of values, in Annotated, make it unreadable."""
    # Some annotations name what does not exist when the program runs, as pydantic's own do.
    with suppress(AttributeError, NameError, TypeError):
        described.__annotations__ = typing.get_type_hints(described)


def _escape(_app: Any, _context: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would read as a reference: VALETKEY_…."""
    lines[:] = [re.sub(r"_(?!\w)", r"\\_", line) for line in lines]


def setup(app: Any) -> None:
    """Connect to the events of Sphinx, and load what the package loads on first use."""
    vars(valetkey).update({name: getattr(valetkey, name) for name in valetkey.__all__})
    app.connect("autodoc-before-process-signature", _drop_limits)
    app.connect("sphinx-click-process-description", _escape)
