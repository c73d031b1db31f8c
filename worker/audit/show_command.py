"""The command `audit show`, which describes a batch or grant in words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

import click
from pydantic import ValidationError

from valetkey.cli.descriptions import describe_cause
from valetkey.cli.terminal_text import escape_unprintable, print_hanging
from valetkey.units import describe_amount, describe_duration, format_duration, format_size
from valetkey.wire.refusals import Refusal
from worker import clock
from worker.audit.grant_filters import note_pruned
from worker.audit.grant_story import UnknownGrant, find_story
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.features import load_each
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.command_options import TEXT, chosen_zone, zone_option
from worker.shared.output import format_in_zone

Values = Mapping[str, Any]
_STATES = {
    "open": "it can be used, and no source reports a use",
    "used": "it was used as granted",
    "unused": "an upload slot that ended, and for which storage has no object",
    "late": "its object was stored after its end",
    "mismatched": "its object is another one than granted",
    "overwritten": "another grant stored an object under its key later",
    "unknown": "it ended, and no source reports a use",
}
_WIDTH = 13  # of the labels
_LIMITS = {
    "request": "as the request asked",
    "policy": "limited by the tenant's policy",
    "provider": "limited by what the storage provider accepts",
    "credentials": "limited by the credentials that signed it",
}
_METRICS = {"grants": "grant", "download_grants": "download grant", "upload_bytes": "of uploads"}


def print_story(values: Values, now: datetime, zone: tzinfo) -> None:
    """Print a story, one line for each topic; a terminal gets long lines wrapped."""
    texts = _localize(values, zone)
    if values["grant"]:
        expires_at = values["expires_at"]
        topics = _grant_topics(texts, expires_at and expires_at - now)
    else:
        topics = _batch_topics(texts)
    for label, text in topics:
        if text:
            print_hanging(f"{label:<{_WIDTH}}", escape_unprintable(text))


def _localize(value: Any, zone: tzinfo) -> Any:
    """Return a story with its times as texts in a time zone."""
    if isinstance(value, datetime):
        text = value.astimezone(zone).isoformat(sep=" ", timespec="seconds")
        return text.replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {name: _localize(each, zone) for name, each in value.items()}
    return [_localize(each, zone) for each in value] if isinstance(value, list) else value


def _grant_topics(values: Values, left: timedelta | None) -> Iterator[tuple[str, str | None]]:
    yield "grant", f"{values['grant']} of tenant {values['tenant']}"
    yield "decision", _decision(values)
    yield from _request_topics(values)
    yield "object", values["key"]
    yield "own terms", _pairs(values["detail"])
    yield from _terms_topics(values)
    yield "expires", _expiry(values, left)
    yield "credentials", values["access_key"] and f"access key {values['access_key']}"
    reissues = (f"{each['at']} with access key {each['access_key']}" for each in values["reissues"])
    yield "signed again", ", ".join(reissues)
    yield "upload", _upload(values)
    if values["state"]:
        yield "state", f"{values['state']}: {_STATES[values['state']]}"
    yield "quota", _quota(values)
    items = values["items"]
    yield "batch", f"item of {items['total']:,}, in chunk {values['chunk']}: {_counts(items)}"
    yield from _outcome_topics(values)
    if values["leaf_number"] is not None:
        yield "log", f"leaf {values['leaf_number']:,} of the tenant's tree"


def _batch_topics(values: Values) -> Iterator[tuple[str, str | None]]:
    items = values["items"]
    yield "batch", f"{values['batch']} of tenant {values['tenant']}"
    yield "items", f"{items['total']:,}: {_counts(items)}"
    if values["refusal"]:
        yield "refusal", _refusal(values["refusal"])
    yield from _request_topics(values)
    yield from _terms_topics(values)
    if items["chunks"] > 1:
        first, last = items["first_at"], items["last_at"]
        yield "chunks", f"{items['chunks']:,}, decided from {first} to {last}"
    states = (f"{number:,} {state}" for state, number in values["states"].items())
    yield "states", ", ".join(states)
    yield "quota", _quota(values)
    yield from _outcome_topics(values)


def _request_topics(values: Values) -> Iterator[tuple[str, str | None]]:
    signer = values.get("signed_by", ...)
    signed = "" if signer is ... else f", signed with the key {signer}" if signer else ", unsigned"
    yield "requested", f"{values['decided_at']} by {values['requested_by']}{signed}"
    yield "thumbprint", values.get("key_thumbprint")
    for name in ANNOTATION_FIELDS:
        yield name, values[name]
    yield "reissue of", values["reissue_of"]


def _terms_topics(values: Values) -> Iterator[tuple[str, str | None]]:
    bucket = values["real_bucket"]
    yield "bucket", f"{values['bucket']}, the bucket {bucket}" if bucket else values["bucket"]
    yield "kind", values["kind"]
    yield "terms", _pairs(values["terms"])


def _outcome_topics(values: Values) -> Iterator[tuple[str, str | None]]:
    """Yield the end of a batch, and the lines of features about it."""
    cancelled = values["cancellation"]
    if cancelled:
        reason = f": {cancelled['reason']}" if cancelled["reason"] else ""
        yield "cancelled", f"{cancelled['at']} by {cancelled['requested_by']}{reason}"
        if not values.get("revocations"):
            yield "", "Grants that were issued before stay valid until they expire."
    for lines in load_each("story_lines"):
        yield from lines(values)


def _decision(values: Values) -> str:
    if values["decision"] == "issued":
        return "issued"
    return f"refused, {_refusal(values['refusal'] or {'code': values['decision']})}"


def _refusal(refusal: Values) -> str:
    try:
        return describe_cause(Refusal.model_validate({"field": "", "message": "", **refusal}))
    except ValidationError:
        return str(refusal.get("code", "for an unknown reason"))


def _expiry(values: Values, left: timedelta | None) -> str | None:
    if left is None:
        return None
    state = f"in {format_duration(left)}" if values["is_alive"] else "no longer valid"
    if values["is_alive"] and values.get("revocations"):
        state = f"{state}, but it was revoked"
    limit = _LIMITS.get(values["limited_by"], f"limited by the {values['limited_by']}")
    after = describe_duration(values["expires_in"])
    return f"{values['expires_at']} ({state}), {after} after issue, {limit}"


def _upload(values: Values) -> str | None:
    row = values["upload"]
    if row is None:
        return None
    size, part = format_size(row["size"]), format_size(row["part_size"])
    return f"multipart, {size} in parts of {part}, {row['state']}"


def _quota(values: Values) -> str | None:
    quota = values["quota"]
    if quota is None:
        is_refused = values.get("decision", "issued") != "issued"
        return "nothing was charged" if is_refused or values["refusal"] else None
    amounts = ", ".join(_amount(metric, number) for metric, number in quota["charged"].items())
    windows = ", ".join(f"{name} from {at}" for name, at in quota["windows"].items())
    text = f"{amounts}, charged in the {windows}"
    if "counts_as_live" in quota:
        live = "still counts" if quota["counts_as_live"] else "no longer counts"
        return f"{text}; {live} as live"
    awaited = quota["awaited_items"]
    return f"at most {text}{f'; {awaited:,} items are still reserved' if awaited else ''}"


def _amount(metric: str, number: int) -> str:
    noun = _METRICS.get(metric, metric)
    plural = "s" if number != 1 and not metric.endswith("_bytes") else ""
    return f"{describe_amount(metric, number)} {noun}{plural}"


def _counts(items: Values) -> str:
    awaited = f", {items['awaited']:,} awaited" if items["awaited"] else ""
    return f"{items['issued']:,} issued, {items['refused']:,} refused{awaited}"


def _pairs(values: Values | None) -> str | None:
    texts = (f"{name} {_value(value)}" for name, value in (values or {}).items())
    return ", ".join(texts)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}={item}" for name, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(str, value))
    words = {True: "yes", False: "no", None: "none"}
    return words[value] if isinstance(value, bool | None) else str(value)


@click.command("show")
@click.argument("grant", type=TEXT)
@zone_option
@click.option("--json", "as_json", is_flag=True, help="Print the story as one JSON object.")
@click.pass_context
def show(context: click.Context, /, *, grant: str, zone: object, as_json: bool) -> None:  # noqa: ARG001 - chosen_zone has the zone
    """Show everything that is known about GRANT: [TENANT/]BATCH.NUMBER, or a batch's id.

    Who requested it and for whom, what decided, until when it is valid and why, how often it was
    signed and delivered, what it was charged, its state and its uses. Never shows a link, a
    signature or a token.

    \b
    Examples:
      python -m worker audit show 0199a000-0000-7000-8000-000000000000.7
      python -m worker audit show acme/0199a000-0000-7000-8000-000000000000 --json
    """
    now, zone_ = clock.now(), chosen_zone(context)
    with open_database(read_transaction) as connection:
        try:
            values = find_story(connection, grant, now)
        except UnknownGrant as error:
            raise click.BadParameter(str(error), param_hint="GRANT") from None
        first = values["items"]["first_at"]
        if values["grant"] is None and first is not None:
            note_pruned(connection, first)
    if as_json:
        click.echo(json.dumps(values, default=lambda moment: format_in_zone(moment, zone_)))
    else:
        print_story(values, now, zone_)
