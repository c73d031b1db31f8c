"""Tables for people, and the same as JSON for programs: quotas, and rules."""

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from valetkey.cli.messages import describe_reason, printable
from valetkey.wire.messages import Explanation, Verdict
from valetkey.wire.refusals import QuotaState

_BAR = 20  # columns
_PAGE = 200  # columns, where nobody's terminal says how many


def show_quotas(quotas: Iterable[QuotaState], form: str | None) -> None:
    """Print quotas with a bar each, or as a JSON object a line."""
    if form == "json":
        for quota in quotas:
            click.echo(json.dumps(_values(quota)))
        return
    rows = [_of_quota(quota) for quota in quotas]
    _print(("quota", "", "used", "limit", "left", "starts again (UTC)"), rows)


def show_rules(explanation: Explanation, form: str | None) -> None:
    """Print what each rule says and what is decided, or all of it as one JSON object."""
    if form == "json":
        click.echo(explanation.model_dump_json())
        return
    _print(("rule", "verdict", "detail"), [_of_rule(verdict) for verdict in explanation.rules])
    click.echo(f"\nIt would be {_DECISIONS[explanation.decision]}.")


_DECISIONS = {"issue": "issued", "refuse": "refused"}


def _values(quota: QuotaState) -> dict[str, Any]:
    return quota.model_dump(mode="json", exclude={"asked"}) | {"left": quota.left}


def _of_quota(quota: QuotaState) -> tuple[RenderableType, ...]:
    name = f"{quota.metric}.{quota.window}"
    style = "red" if quota.left == 0 else "yellow" if quota.warns else "green"
    bar = ProgressBar(quota.limit, quota.used, width=_BAR, complete_style=style)
    bar.finished_style = style
    show = decimal if quota.metric == "upload_bytes" else "{:,}".format
    again = f"{quota.resets_at:%Y-%m-%d %H:%M}" if quota.resets_at else "as grants lapse"
    return (name, bar, show(quota.used), show(quota.limit), show(quota.left), again)


def _of_rule(verdict: Verdict) -> tuple[RenderableType, ...]:
    found = printable(verdict.found)
    if verdict.refusal is None:
        return (verdict.rule, Text("ok", "green"), found)
    why = describe_reason(verdict.refusal)
    return (verdict.rule, Text("refused", "red"), f"{found}: {why}" if found else why)


def _print(columns: Iterable[str], rows: Iterable[tuple[RenderableType, ...]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _PAGE
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(table)
