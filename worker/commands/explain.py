import json
from typing import Any

import click
from sqlalchemy import Engine

from valetkey.wire.messages import Explanation, Verdict
from valetkey.wire.refusals import Refusal
from worker.aws.clients import S3Clients
from worker.clock import now
from worker.commands.database import open_database
from worker.commands.output import printable
from worker.db.engine import read_transaction
from worker.db.history import BatchHistoryReader
from worker.db.ledger import Ledger
from worker.db.multiparts import MultipartStore
from worker.errors import Malformed
from worker.settings import Settings
from worker.usecases.explain import Explainer
from worker.usecases.multipart import MultipartUploads

_DECISIONS = {"issue": ("granted", "green"), "refuse": ("refused", "red")}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.pass_context
def explain(context: click.Context, /, *, file: str, as_json: bool) -> None:
    """Show what would be decided on the message in FILE, rule by rule.

    FILE holds what a producer sends: a signed token, or a message as JSON, which is explained as if
    it were signed. - is stdin. Nothing is charged, signed or written. Exits with 1 where the
    message would be refused.

    \b
    Example:
      python -m worker explain message.json
    """
    raw = _read(file)
    try:
        with open_database(read_transaction) as connection:
            explanation = _explainer(connection.engine).explain_raw(raw)
    except Malformed as error:
        raise click.ClickException(f"Nothing was explained: {error}.") from None
    if as_json:
        click.echo(explanation.model_dump_json(exclude_none=True, indent=2))
    else:
        _show(explanation)
    context.exit(0 if explanation.decision == "issue" else 1)


def _read(file: str) -> Any:
    try:
        with click.open_file(file, "rb") as opened_file:
            content = opened_file.read().strip()
    except OSError as error:
        raise click.FileError(file, error.strerror) from None
    try:
        if not content.startswith((b"{", b"[", b'"')):
            return content.decode()
        return json.loads(content)
    except (ValueError, RecursionError):
        raise click.ClickException("This is neither a token nor a message as JSON.") from None


def _explainer(engine: Engine) -> Explainer:
    ledger, past = Ledger(engine), BatchHistoryReader(engine)
    s3 = S3Clients(Settings().s3_endpoint, Settings().sts_endpoint)
    return Explainer(
        ledger, past, MultipartUploads(MultipartStore(engine), past, ledger, s3), s3, now
    )


def _show(explanation: Explanation) -> None:
    width = max(len(verdict.rule) for verdict in explanation.rules)
    click.secho(f"{'rule':{width}}  verdict  detail", bold=True)
    for verdict in explanation.rules:
        word, colour = _DECISIONS["refuse"] if verdict.refusal else ("ok", "green")
        click.echo(f"{verdict.rule:{width}}  {click.style(f'{word:7}', colour)}  {_said(verdict)}")
    word, colour = _DECISIONS[explanation.decision]
    click.secho(f"\nIt would be {word}.", fg=colour, bold=True)


def _said(verdict: Verdict) -> str:
    reason = None if verdict.refusal is None else _reason(verdict.refusal, verdict.rule)
    return printable("; ".join(filter(None, [verdict.found, reason])))


def _reason(refusal: Refusal, rule: str) -> str:
    where = f" in {refusal.field}" if refusal.field not in {"", rule} else ""
    return f"{refusal.code}{where}: {refusal.message}{_limit(refusal.limit)}"


def _limit(limit: int | str | list[str] | None) -> str:
    if limit is None:
        return ""
    named = (
        limit if isinstance(limit, list) else [f"{limit:,}" if isinstance(limit, int) else limit]
    )
    return f" (limit: {', '.join(named) or 'none'})"
