"""A grant as something ready to use: a text, a command, a page, a script.

All contain the grant itself, so they are as secret as it is.
"""

from valetkey.snippets.curl import curl
from valetkey.snippets.javascript import javascript
from valetkey.snippets.page import page
from valetkey.snippets.text import readable

__all__ = ["curl", "javascript", "page", "readable"]
