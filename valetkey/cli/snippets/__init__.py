"""Grants as ready-to-use text: a description, a shell command, a web page, a script.

Each contains the grant itself, so it is as secret as the grant.
"""

from valetkey.cli.snippets.curl import render_curl
from valetkey.cli.snippets.javascript import render_javascript
from valetkey.cli.snippets.page import render_page
from valetkey.cli.snippets.text import render_text

__all__ = ["render_curl", "render_javascript", "render_page", "render_text"]
