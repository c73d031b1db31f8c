"""Descriptions of grants for people."""

from valetkey.cli.printable import escape_unprintable
from valetkey.cli.snippets import request_parts
from valetkey.wire.replies import Grant

_FORM_HELP = """Send these as multipart/form-data, then the file as the last field, named `file`,
before {expiry}.
With --curl this is a command, with --html a page, with --js a script."""
_PUT_HELP = """Send the file with exactly these headers before {expiry}.
With --curl this is a command, with --html a page, with --js a script."""
_READ_HELP = """Send exactly these headers before {expiry}.
With --curl this is a command, with --js a script."""


def render_text(grant: Grant) -> str:
    """Return a description of the request that uses a grant, and of its expiry.

    Raises UnusableGrant.
    """
    request_parts.check_method(grant)
    values = dict(grant.fields or grant.headers)
    type_prefix = request_parts.content_type_prefix(grant)
    if type_prefix is not None:
        values["Content-Type"] = f"(the file's own, which begins with {type_prefix})"
    width = max((len(name) for name in values), default=0)
    lines = [f"  {name:<{width}}  {value}" for name, value in values.items()]
    limited_by = escape_unprintable(grant.limited_by)
    expiry = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z} (limited by {limited_by})"
    if grant.fields:
        instructions = _FORM_HELP
    else:
        instructions = _PUT_HELP if grant.method == "PUT" else _READ_HELP
    return "\n".join(
        [f"{grant.method} {grant.url}", *lines, "", instructions.format(expiry=expiry)]
    )
