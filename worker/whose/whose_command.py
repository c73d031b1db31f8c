"""The command `audit whose`: the owner of a link, whether it is genuine, and how to end it."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from sqlalchemy import Connection

from valetkey.cli.terminal_text import escape_unprintable, print_table
from valetkey.units import format_utc
from worker import clock
from worker.audit.audit_rows import find_batches
from worker.audit.pruned_months import pruned_item_month, pruned_month
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.grant_names import GrantName
from worker.whose.link_lookup import JudgedGrant, find_pasted
from worker.whose.link_verdicts import (
    MAX_PASTED_BYTES,
    PastedGrant,
    Unreadable,
    is_alive,
    read_pasted_grant,
    ways_to_end,
)

_STDIN = "-"
_SENTENCES = {
    "genuine": "GENUINE: the signature is the one that was issued",
    "altered": "ALTERED: the signature was issued, but this differs from what was signed",
    "forged": "FORGED: the grant exists, but the signature is not the one that was issued",
    "unproven": "NOT PROVEN: this may be the link that aborts the upload, whose signature is not"
    " in the audit log",
    "truncated": "TRUNCATED, not proven: the signature or what it signs is incomplete",
    "named": "NAMED ONLY, not proven: there is no signature to check",
}
_COLOURS = {"genuine": "green", "altered": "red", "forged": "red"}
_GOOD = {"genuine", "named"}
_OBJECT = ("grant", "tenant", "bucket", "key", "kind")
_REQUEST = ("requested_by", *ANNOTATION_FIELDS, "signed_by")
_NOT_OURS = "this link is not from this service: it has no valetkey grant id, and the audit log"
_KEY_HINT = "`audit list --key` finds the grants of an object, if you know its key"


@click.command("whose", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="LINK|FORM|ID|-")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per grant.")
@click.pass_context
def whose(context: click.Context, /, *, words: tuple[str, ...], as_json: bool) -> None:
    """Show whose a link is: its tenant, requester and reason, and how to end it.

    Takes a link, a form as JSON, HTML or lines of NAME=VALUE, the metadata of an object, or the id
    of a grant. - reads it from stdin: a link in the arguments stays in the history of the shell.
    Prints no link and no signature.

    \b
    Examples:
      python -m worker audit whose - < link.txt
      aws s3api head-object --bucket b --key k | python -m worker audit whose -
      python -m worker audit whose 0199a000-0000-7000-8000-000000000000.7

    \b
    Exit codes:
      0  the grant was found, and its signature, if there is one, is genuine
      1  forged, altered or truncated, or not found
      2  this is no link, form, metadata or grant id
    """
    readings = _read(words)
    now = clock.now()
    with open_database(read_transaction) as connection:
        judged = find_pasted(connection, readings)
        unknown = "" if judged else _describe_unknown(connection, readings[0])
    if not judged:
        raise click.ClickException(unknown)
    for each in judged:
        values = _describe(each, now)
        if as_json:
            click.echo(json.dumps(values, default=format_utc))
        else:
            _print(values)
    if any(each.verdict not in _GOOD for each in judged):
        context.exit(1)


def _read(words: tuple[str, ...]) -> list[PastedGrant]:
    # A link that was pasted without quotes may be several words. No message repeats them.
    try:
        text = _read_stdin() if words == (_STDIN,) else " ".join(words)
        return read_pasted_grant(text)
    except Unreadable as error:
        raise click.UsageError(
            f"{error}. Paste a link, a form, the metadata of an object or a grant id, in quotes or"
            " through stdin with -."
        ) from None


def _read_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Paste the link, then press Enter and Ctrl-D.", err=True)
    content = sys.stdin.buffer.read(MAX_PASTED_BYTES + 1)
    return content.decode(errors="replace")


def _describe_unknown(connection: Connection, pasted: PastedGrant) -> str:
    if pasted.name is not None:
        return _describe_unknown_id(connection, pasted.name)
    if pasted.is_truncated:
        return f"this link cannot be searched: it has no grant id, and is cut off; {_KEY_HINT}"
    if not pasted.digests:
        return f"this is no grant: it has neither a grant id nor a signature; {_KEY_HINT}"
    if pasted.issued_at is None:
        return f"{_NOT_OURS} cannot be searched without X-Amz-Date; {_KEY_HINT}"
    month = pruned_month(connection, pasted.issued_at)
    if month is not None:
        return (
            f"{_NOT_OURS} has no such signature of that time: `audit prune` removed what was issued"
            f" before {month}"
        )
    return (
        f"{_NOT_OURS} has no such signature of that time. If it is a plain link, it was altered or"
        f" forged; {_KEY_HINT}"
    )


def _describe_unknown_id(connection: Connection, name: GrantName) -> str:
    batches = find_batches(connection, name.batch_id)
    if not batches:
        text = "the audit log has no grant with this id"
        return f"{text}: it is of another service, older than the audit log, or made up"
    tenant, number = batches[0]
    rest = f"`audit show {tenant}/{name.batch_id}` shows"
    month = pruned_item_month(connection, number, name.item_number)
    if month is not None:
        return f"`audit prune --before {month}` removed this grant's row: {rest} what is kept"
    return f"the audit log has the batch of this id, but not this grant: {rest} the batch"


def _describe(judged: JudgedGrant, now: Any) -> dict[str, Any]:
    grant, verdict, differences, signing = judged
    alive = is_alive(grant, now)
    return {
        **{name: getattr(grant, name) for name in _OBJECT},
        "decision": grant.code or "issued",
        **{name: getattr(grant, name) for name in _REQUEST},
        "issued_at": grant.issued_at,
        "signed_again_at": signing.signed_again_at if signing else None,
        "access_key": signing.access_key if signing else None,
        "alive": alive,
        "expires_at": None if grant.code else grant.expires_at,
        "limited_by": None if grant.code else grant.limited_by,
        "upload": grant.upload,
        "batch_cancelled_at": grant.cancelled_at,
        "revocations": [
            {
                "revoked_at": each.revoked_at,
                "revoked_by": each.revoked_by,
                "reason": each.reason,
                "target": {"kind": each.target.kind, "value": each.target.value},
            }
            for each in grant.revocations
        ],
        "ends_sooner": list(ways_to_end(grant, signing)) if alive and signing else [],
        "verdict": verdict,
        "differences": differences,
    }


def _print(values: dict[str, Any]) -> None:
    verdict = values["verdict"]
    sentence = _SENTENCES[verdict]
    if values["differences"]:
        sentence = f"{sentence}: {', '.join(values['differences'])}"
    click.secho(sentence, fg=_COLOURS.get(verdict), bold=True)
    print_table(("", ""), list(_rows(values)), wrap_last=True)


def _rows(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _OBJECT:
        yield name, escape_unprintable(values[name])
    if values["decision"] != "issued":
        yield "decision", f"refused ({values['decision']}): nothing was ever signed for it"
    for name in _REQUEST:
        absent = "nobody: the tenant accepts unsigned requests" if name == "signed_by" else "-"
        yield name, escape_unprintable(values[name] or absent)
    yield "issued_at", format_utc(values["issued_at"])
    if values["signed_again_at"]:
        yield "signed_again_at", format_utc(values["signed_again_at"])
    if values["access_key"]:
        yield "access_key", escape_unprintable(values["access_key"])
    if values["expires_at"]:
        yield "alive", _describe_life(values)
    if values["upload"]:
        yield "upload", values["upload"]
    if values["batch_cancelled_at"]:
        yield "batch_cancelled_at", format_utc(values["batch_cancelled_at"])
    for each in values["revocations"]:
        yield "revoked_at", _describe_revocation(each)
    yield from _ways(values["ends_sooner"])


def _ways(ways: list[str]) -> Iterator[tuple[str, str]]:
    for number, way in enumerate(ways):
        yield "" if number else "ends_sooner", escape_unprintable(way)


def _describe_life(values: dict[str, Any]) -> str:
    if not values["alive"] and values["expires_at"] > clock.now():
        return "no: the upload has ended"
    state = "yes, until" if values["alive"] else "no, not since"
    if values["alive"] and values["revocations"]:
        state = "revoked; if storage still accepts it, until"
    return f"{state} {format_utc(values['expires_at'])} (limited by {values['limited_by']})"


def _describe_revocation(values: dict[str, Any]) -> str:
    reason = f": {values['reason']}" if values["reason"] else ""
    text = f"{format_utc(values['revoked_at'])} by {values['revoked_by']}{reason}"
    return escape_unprintable(text)
