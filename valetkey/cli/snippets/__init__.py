"""Grants as ready-to-use text: a description, a shell command, a web page, a script.

Each contains the grant itself, so it is as secret as the grant.
"""

from valetkey.cli.snippets.code_snippets import render_curl, render_javascript, render_text
from valetkey.cli.snippets.upload_page import render_page

__all__ = ["render_curl", "render_javascript", "render_page", "render_text"]
