"""Options that several commands share."""

import os
from pathlib import Path
from typing import get_args

import click

from valetkey.cli.format_options import Decorator, add_options, format_option
from valetkey.cli.parameter_types import ENCRYPTION, EXPIRY, MIN_LEFT, NAME, TEXT, TIMEOUT
from valetkey.wire.events import UploadEventType


def _parse_pairs(
    _context: click.Context, _param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Return NAME=VALUE pairs as a dict."""
    invalid = next((pair for pair in pairs if "=" not in pair), None)
    if invalid is not None:
        raise click.BadParameter(f"{invalid!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _require_writable_folder(
    _context: click.Context, _param: click.Parameter, out: Path | None
) -> Path | None:
    """Refuse an output file that cannot be created, before anything is charged."""
    if out is not None and not os.access(out.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"the folder {out.parent} does not exist or is not writable")
    return out


_REASON = click.option("--reason", type=TEXT, help="The reason, which the audit log records.")
_RECIPIENT = click.option(
    "--recipient",
    type=TEXT,
    metavar="NAME",
    help="The person or system that this is for; the audit log records it.",
)
_REQUESTED_BY = click.option(
    "--requested-by", type=TEXT, metavar="NAME", help="Who requests this; the audit log records it."
)
_TENANT = click.option(
    "--tenant",
    type=NAME,
    metavar="NAME",
    help="The tenant to act for; by default VALETKEY_TENANT, or the tenant of the key.",
)


def _timeout(text: str) -> Decorator:
    return click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help=text)


_EXPIRES_IN = click.option(
    "--expires-in",
    type=EXPIRY,
    default="1h",
    show_default=True,
    help="The time until the grant expires: 90s, 15m, 1h or 7d.",
)
request_options = add_options(
    _EXPIRES_IN,
    click.option(
        "--min-expires-in",
        type=EXPIRY,
        help="Refuse the grant if it would have to expire sooner than this.",
    ),
    click.option(
        "--min-left",
        type=MIN_LEFT,
        metavar="DURATION",
        help="Exit with 6 if a grant of the output has less time left than this; by default a "
        "tenth of its requested time. 0 turns this off.",
    ),
    click.option(
        "--callback",
        type=NAME,
        metavar="NAME",
        help="Also send the results to this webhook endpoint.",
    ),
    _REASON,
    _RECIPIENT,
    _REQUESTED_BY,
    _TENANT,
    _timeout("The longest wait for the next response; if given, also for a manifest (else 10m)."),
    click.option(
        "--dry-run", is_flag=True, help="Show the decision rule by rule; grant and charge nothing."
    ),
    format_option("--json", "Write a JSON object for each item."),
    format_option("--csv", "Write a CSV row for each item."),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_require_writable_folder,
        help="Write to a file that only you may read; it appears when it is complete.",
    ),
    click.option(
        "--force", is_flag=True, help="Replace what --out or --manifest names; charge all again."
    ),
)
"""The options of all requests for grants."""

_RESPONSE_OPTIONS = (_TENANT, _timeout("The longest wait for the response."))
link_options = add_options(_EXPIRES_IN, _REASON, _RECIPIENT, _REQUESTED_BY, *_RESPONSE_OPTIONS)
"""The options of a command that prints one link."""

read_only_options = add_options(*_RESPONSE_OPTIONS, format_option("--json", "Write JSON."))
"""The options of a command that only reads."""

cancel_options = add_options(_REASON, _REQUESTED_BY, read_only_options)
"""The options of a command that changes an existing batch."""

reissue_options = add_options(_REASON, _RECIPIENT, _REQUESTED_BY, read_only_options)
"""The options of a command that issues a grant again."""

object_options = add_options(
    click.option(
        "--notify",
        type=click.Choice(get_args(UploadEventType)),
        multiple=True,
        callback=lambda _context, _param, types: list(types) or None,
        help="Also send such webhooks to the endpoint of --callback; may be repeated.",
    ),
    click.option("--content-type", type=TEXT, help="The content type that the object must have."),
    click.option(
        "--acl", type=TEXT, help="A canned ACL such as public-read, if the policy allows it."
    ),
    click.option(
        "--meta",
        "metadata",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_pairs,
        help="Metadata to store with the object; may be repeated.",
    ),
    click.option(
        "--tag",
        "tags",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_pairs,
        help="A tag to store with the object; may be repeated.",
    ),
    click.option(
        "--storage-class",
        type=TEXT,
        metavar="NAME",
        help="The object's storage class, such as STANDARD_IA or GLACIER_IR.",
    ),
    click.option(
        "--encryption",
        type=ENCRYPTION,
        metavar="AES256|ARN",
        help="Encrypt the object with S3's own key (AES256), or with the KMS key of this ARN.",
    ),
)
"""The options of a command whose grants store an object."""

_SNIPPET_OPTIONS = {
    "curl": format_option("--curl", "Print a curl command."),
    "html": format_option("--html", "Print a page for a browser."),
    "js": format_option("--js", "Print JavaScript that uses fetch."),
}


def snippet_options(*names: str) -> Decorator:
    """Return a decorator that adds options to print a grant as a ready-to-use snippet."""
    return add_options(*(_SNIPPET_OPTIONS[name] for name in names))
