import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.replies import service_description
from valetkey.cli.descriptions import describe_cause, describe_refusal
from valetkey.cli.tables import show_explanation, show_quotas, show_service
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Explanation, RuleVerdict, ServiceInfo

MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)


def quota(**changes: Any) -> QuotaState:
    values = {"metric": "grants", "window": "day", "limit": 100, "used": 25, "resets_at": MIDNIGHT}
    return QuotaState.model_validate(values | changes)


LIVE = quota(metric="upload_bytes", window="live", limit=10**9, used=10**9, resets_at=None)


def printed_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_quota_has_a_bar_the_remaining_amount_and_the_reset_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_quotas([quota(), LIVE], None)
    _, day, live = printed_lines(capsys)
    assert " ".join(day.split()) == "grants.day ━━──────── 25 100 75 2026-11-25 00:00"
    assert live.split()[:2] == ["upload_bytes.live", "━" * 10]
    assert live.endswith("953.7 MiB  953.7 MiB  0 B   as slots are settled")


def test_a_quota_used_beyond_its_limit_fills_its_bar_and_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_quotas([quota(used=1_000)], None)
    assert printed_lines(capsys)[1].split()[1:5] == ["━" * 10, "1,000", "100", "0"]


def test_json_has_one_quota_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_quotas([quota(warn_at=80), LIVE], "json")
    day, live = map(json.loads, printed_lines(capsys))
    amounts = {"limit": 100, "used": 25, "left": 75, "warn_at": 80}
    assert (
        day == {"metric": "grants", "window": "day", "resets_at": "2026-11-25T00:00:00Z"} | amounts
    )
    assert (live["left"], live["resets_at"]) == (0, None)


REFUSAL = Refusal(code=Code.EXPIRY_TOO_LONG, field="grant.expires_in", message="long", limit=60)
RULES = [
    RuleVerdict(rule="key", found="a\x1b[2J"),
    RuleVerdict(rule="validity", found="2 h", refusal=REFUSAL),
]


def test_each_rule_has_its_verdict_and_detail(capsys: pytest.CaptureFixture[str]) -> None:
    show_explanation(Explanation(decision="refuse", rules=RULES), None)
    lines = printed_lines(capsys)
    assert lines[0].split() == ["rule", "verdict", "detail"]
    assert lines[1].split() == ["key", "ok", "a\\x1b[2J"]
    detail = "2 h: expiry_too_long in grant.expires_in: long (limit: 1 minute)"
    assert lines[2].split(maxsplit=2) == ["validity", "refused", detail]
    assert lines[-1] == "It would be refused."


@pytest.mark.parametrize("text", ["\u009b2J", "\u202etxt.exe", "\ud800"])
def test_json_has_no_character_that_controls_a_terminal_or_cannot_be_printed(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    show_service(ServiceInfo(**service_description("acme") | {"release": text}), "json")
    show_explanation(Explanation(decision=text, rules=[]), "json")
    service, explanation = printed_lines(capsys)
    assert (json.loads(service)["release"], json.loads(explanation)["decision"]) == (text, text)
    assert (service + explanation).isascii()


def test_a_live_quota_has_no_reset_time() -> None:
    state = LIVE.model_copy(update={"asked": 5})
    refusal = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="no", quota=state)
    assert describe_refusal(refusal) == (
        "refused the request: quota_exceeded in total: no; the limit is 953.7 MiB "
        "(1,000,000,000 bytes) of live uploads: 953.7 MiB (1,000,000,000 bytes) used, 5 bytes "
        "requested; capacity becomes free as slots are settled"
    )


def test_control_characters_of_a_refusal_are_escaped() -> None:
    refusal = REFUSAL.model_copy(update={"message": "a\x1b[2J", "limit": ["b\r"]})
    assert describe_cause(refusal).endswith("a\\x1b[2J (limit: b\\r)")
