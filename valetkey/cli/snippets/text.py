"""Grants for a person to read."""

from valetkey.cli.snippets import request_parts
from valetkey.wire.messages import Grant

_FORM = """Send these as multipart/form-data, then the file as the last field, named `file`,
before {end}.
With --curl this is a command, with --html a page, with --js a script."""
_PUT = """Send the file with exactly these headers before {end}.
With --curl this is a command, with --html a page, with --js a script."""
_READ = """Send exactly these headers before {end}.
With --curl this is a command, with --js a script."""


def plain_text(grant: Grant) -> str:
    """What to send to use a grant, where, and until when."""
    named = dict(grant.fields or grant.headers)
    family = request_parts.content_type_prefix(grant)
    if family is not None:
        named["Content-Type"] = f"(the file's own, which begins with {family})"
    width = max((len(name) for name in named), default=0)
    lines = [f"  {name:<{width}}  {value}" for name, value in named.items()]
    end = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z} (limited by {grant.limited_by})"
    how = _FORM if grant.fields else _PUT if grant.method == "PUT" else _READ
    return "\n".join([f"{grant.method} {grant.url}", *lines, "", how.format(end=end)])
