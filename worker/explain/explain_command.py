"""Explains the decision on a message, rule by rule."""

import json
from typing import Any

import click

from valetkey.cli.descriptions import describe_limit
from valetkey.cli.terminal_text import escape_unprintable, print_table
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Explanation, RuleVerdict
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.context import create_context
from worker.errors import Malformed
from worker.explain.request_explanation import explain_raw
from worker.settings import Settings

_DECISIONS = {"issue": ("issued", "green"), "refuse": ("refused", "red")}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.pass_context
def explain(context: click.Context, /, *, file: str, as_json: bool) -> None:
    """Explain the decision on the message in FILE, rule by rule.

    FILE contains what a producer sends: a signed token, or a message in JSON, which is explained as
    if it were signed. "-" reads from stdin. Nothing is charged, signed or written. Exits with 1 if
    the message would be refused.

    \b
    Example:
      python -m worker explain message.json
    """
    raw = _read_message(file)
    try:
        with open_database(read_transaction) as connection:
            explanation = explain_raw(raw, create_context(connection.engine, Settings()))
    except Malformed as error:
        raise click.ClickException(f"Nothing was explained: {error}.") from None
    if as_json:
        click.echo(explanation.model_dump_json(exclude_none=True, indent=2))
    else:
        _print_explanation(explanation)
    context.exit(0 if explanation.decision == "issue" else 1)


def _read_message(file: str) -> Any:
    try:
        with click.open_file(file, "rb") as stream:
            content = stream.read().strip()
    except OSError as error:
        raise click.FileError(file, error.strerror) from None
    try:
        if not content.startswith((b"{", b"[", b'"')):
            return content.decode()
        return json.loads(content)
    except (ValueError, RecursionError):
        text = "The input is neither a token nor a message in JSON."
        raise click.ClickException(text) from None


def _print_explanation(explanation: Explanation) -> None:
    rows = [_rule_row(verdict) for verdict in explanation.rules]
    print_table(("rule", "verdict", "detail"), rows, wrap_last=True)
    word, colour = _DECISIONS[explanation.decision]
    click.secho(f"\nIt would be {word}.", fg=colour, bold=True)


def _rule_row(verdict: RuleVerdict) -> tuple[str, str, str]:
    word, colour = _DECISIONS["refuse"] if verdict.refusal else ("ok", "green")
    reason = None if verdict.refusal is None else _format_reason(verdict.refusal, verdict.rule)
    detail = escape_unprintable("; ".join(filter(None, [verdict.found, reason])))
    return (verdict.rule, click.style(word, colour), detail)


def _format_reason(refusal: Refusal, rule: str) -> str:
    field = f" in {refusal.field}" if refusal.field not in {"", rule} else ""
    return f"{refusal.code}{field}: {refusal.message}{describe_limit(refusal)}"
