"""A grant as something ready to use: a text, a command, a page, a script.

All contain the grant itself, so they are as secret as it is.
"""

from valetkey.cli.snippets.curl import curl
from valetkey.cli.snippets.javascript import javascript
from valetkey.cli.snippets.page import page
from valetkey.cli.snippets.text import plain_text

__all__ = ["curl", "javascript", "page", "plain_text"]
