import json
from datetime import UTC, datetime
from typing import Any

import pytest

from valetkey.cli.messages import describe_quota_warning, describe_reason, describe_refusal
from valetkey.cli.tables import show_quotas, show_rules
from valetkey.wire.messages import Explanation, Verdict
from valetkey.wire.refusals import Code, QuotaState, Refusal

MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)


def quota(**changes: Any) -> QuotaState:
    said = {"metric": "grants", "window": "day", "limit": 100, "used": 25, "resets_at": MIDNIGHT}
    return QuotaState.model_validate(said | changes)


LIVE = quota(metric="upload_bytes", window="live", limit=10**9, used=10**9, resets_at=None)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_quota_has_a_bar_what_is_left_and_when_it_starts_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_quotas([quota(), LIVE], None)
    _, day, live = printed(capsys)
    assert day.split() == ["grants.day", "━" * 5, "25", "100", "75", "2026-11-25", "00:00"]
    assert live.split()[:2] == ["upload_bytes.live", "━" * 20]
    assert live.endswith("1.0 GB  1.0 GB  0 bytes  as grants lapse")


def test_a_quota_that_was_lowered_fills_its_bar_and_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_quotas([quota(used=1_000)], None)
    assert printed(capsys)[1].split()[1:5] == ["━" * 20, "1,000", "100", "0"]


def test_quotas_are_an_object_a_line_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show_quotas([quota(warn_at=80), LIVE], "json")
    day, live = map(json.loads, printed(capsys))
    assert day == {
        "metric": "grants",
        "window": "day",
        "limit": 100,
        "used": 25,
        "left": 75,
        "warn_at": 80,
        "resets_at": "2026-11-25T00:00:00Z",
    }
    assert (live["left"], live["resets_at"]) == (0, None)


REFUSAL = Refusal(code=Code.EXPIRY_TOO_LONG, field="grant.expires_in", message="long", limit=60)
RULES = [Verdict(rule="key", found="a\x1b[2J"), Verdict(rule="life", found="2 h", refusal=REFUSAL)]


def test_each_rule_has_its_verdict_and_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    show_rules(Explanation(decision="refuse", rules=RULES), None)
    lines = printed(capsys)
    assert lines[0].split() == ["rule", "verdict", "detail"]
    assert lines[1].split() == ["key", "ok", "a\\x1b[2J"]
    why = "2 h: expiry_too_long in grant.expires_in: long (limit: 60)"
    assert lines[2].split(maxsplit=2) == ["life", "refused", why]
    assert lines[-1] == "It would be refused."


def test_rules_are_one_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    explanation = Explanation(decision="refuse", rules=RULES)
    show_rules(explanation, "json")
    assert Explanation.model_validate_json(capsys.readouterr().out) == explanation


def test_a_warning_says_what_is_used_and_left() -> None:
    assert describe_quota_warning(quota(used=90, warn_at=80)) == (
        "warning: 90 of 100 grants per day are used, 10 are left; "
        "it starts again at 2026-11-25 00:00 UTC"
    )


def test_a_live_quota_never_starts_again() -> None:
    refusal = Refusal(
        code=Code.QUOTA_EXCEEDED, field="total", message="no", quota=quota_asked(LIVE, 5)
    )
    assert describe_refusal(refusal) == (
        "refused the request: quota_exceeded in total: no; the limit is 1000000000 live bytes to "
        "upload, 1000000000 are used and 5 were asked for; there is room again as grants lapse"
    )


def quota_asked(state: QuotaState, asked: int) -> QuotaState:
    return state.model_copy(update={"asked": asked})


def test_no_word_of_a_refusal_moves_the_cursor() -> None:
    refusal = REFUSAL.model_copy(update={"message": "a\x1b[2J", "limit": ["b\r"]})
    assert describe_reason(refusal).endswith("a\\x1b[2J (limit: b\\r)")
