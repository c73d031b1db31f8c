"""An upload grant as something ready to use: a text, a curl command, an HTML page.

All contain the grant itself, so they are as secret as it is.
"""

import shlex
from html import escape

from valetkey.messages import Grant

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<title>Upload {key}</title>
<h1>Upload <code>{key}</code></h1>
<p>This form works until {expires_at}.</p>
<form action="{url}" method="post" enctype="multipart/form-data" accept-charset="utf-8">
{fields}
<p><input type="file" name="file" required> <button>Upload</button></p>
</form>
</html>
"""


def readable(grant: Grant) -> str:
    """Where to POST an upload, with which fields, and until when."""
    width = max((len(name) for name in grant.fields), default=0)
    fields = [f"  {name:<{width}}  {value}" for name, value in grant.fields.items()]
    return "\n".join(
        [
            f"POST {grant.url}",
            *fields,
            "",
            "Send these as multipart/form-data, then the file as the last field, named `file`,",
            f"before {grant.expires_at:%Y-%m-%d %H:%M:%S %Z} (limited by {grant.limited_by}).",
            "With --curl this is a command, with --html a page.",
        ]
    )


def curl_line(grant: Grant, path: str) -> str:
    """One line for a POSIX shell that uploads the file at path; needs curl 7.76 or later."""
    words = ["curl", "--fail-with-body", "--globoff"]
    for name, value in grant.fields.items():
        words += ["--form-string", f"{name}={value}"]  # --form would read @, < and ;type=
    words += ["--form", f"file=@{_quoted(path)}", "--url", grant.url]
    return shlex.join(words)


def html_page(grant: Grant) -> str:
    """A page with a form that uploads one file; storage wants the file as the last field."""
    fields = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in grant.fields.items()
    )
    return _PAGE.format(
        key=escape(grant.key),
        expires_at=f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        url=escape(grant.url),
        fields=fields,
    )


def _quoted(path: str) -> str:
    # curl's own quoting, within the shell's: a bare name ends at a comma or semicolon.
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))
