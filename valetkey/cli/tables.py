"""Tables of quotas and of policy rules, also as JSON."""

import json
from collections.abc import Iterable
from typing import Any

import click

from valetkey.cli.descriptions import describe_cause
from valetkey.cli.printable import escape_unprintable
from valetkey.cli.table_layout import print_table
from valetkey.units import (
    describe_duration,
    describe_live_reset,
    describe_size,
    format_amount,
)
from valetkey.wire.refusals import QuotaState
from valetkey.wire.replies import Explanation, RuleVerdict
from valetkey.wire.service import ServiceInfo

_BAR_COLUMNS = 10
_SECONDS = frozenset({"max_message_age", "max_clock_skew", "max_expires_in"})

_DECISIONS = {"issue": "issued", "refuse": "refused"}


def show_quotas(quotas: Iterable[QuotaState], output_format: str | None) -> None:
    """Print a table of quotas with a bar for each, or one JSON object a line."""
    if output_format == "json":
        for quota in quotas:
            click.echo(json.dumps(_quota_values(quota)))
        return
    rows = [_quota_row(quota) for quota in quotas]
    print_table(("quota", "", "used", "limit", "left", "resets at (UTC)"), rows)


def show_explanation(explanation: Explanation, output_format: str | None) -> None:
    """Print each rule's verdict and the decision, or all of it as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(explanation.model_dump(mode="json")))
        return
    rows = [_rule_row(verdict) for verdict in explanation.rules]
    print_table(("rule", "verdict", "detail"), rows, wrap_last=True)
    decision = _DECISIONS.get(explanation.decision, explanation.decision)
    click.echo(f"\nIt would be {escape_unprintable(decision)}.")


def show_service(service: ServiceInfo, output_format: str | None) -> None:
    """Print the versions, kinds and limits of the service, or all of them as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(service.model_dump(mode="json")))
        return
    rows = [
        ("release", service.release),
        ("wire versions", ", ".join(map(str, service.versions))),
        ("asks", ", ".join(service.asks)),
        ("kinds", ", ".join(service.kinds)),
        *((name, _limit_text(name, value)) for name, value in service.limits),
    ]
    print_table(
        ("service", ""), [list(map(escape_unprintable, row)) for row in rows], wrap_last=True
    )


def _limit_text(name: str, value: int) -> str:
    if name.endswith("_bytes"):
        return describe_size(value)
    return describe_duration(value) if name in _SECONDS else f"{value:,}"


def _quota_values(quota: QuotaState) -> dict[str, Any]:
    return quota.model_dump(mode="json", exclude={"asked"}) | {"left": quota.left}


def _quota_row(quota: QuotaState) -> tuple[str, ...]:
    name = escape_unprintable(f"{quota.metric}.{quota.window}")
    amounts = (format_amount(quota.metric, n) for n in (quota.used, quota.limit, quota.left))
    resets_at = (
        f"{quota.resets_at:%Y-%m-%d %H:%M}"
        if quota.resets_at
        else describe_live_reset(quota.metric)
    )
    return (name, _quota_bar(quota), *amounts, resets_at)


def _quota_bar(quota: QuotaState) -> str:
    full = _BAR_COLUMNS if quota.left == 0 else quota.used * _BAR_COLUMNS // quota.limit
    style = "red" if quota.left == 0 else "yellow" if quota.warns else "green"
    return click.style("━" * full, style) + "─" * (_BAR_COLUMNS - full)


def _rule_row(verdict: RuleVerdict) -> tuple[str, ...]:
    rule, detail = escape_unprintable(verdict.rule), escape_unprintable(verdict.found)
    if verdict.refusal is None:
        return (rule, click.style("ok", "green"), detail)
    reason = describe_cause(verdict.refusal)
    return (rule, click.style("refused", "red"), f"{detail}: {reason}" if detail else reason)
