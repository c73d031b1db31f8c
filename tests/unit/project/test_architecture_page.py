"""The page about the architecture says of each feature and hook what the code says."""

from pathlib import Path
from typing import get_args

import pytest

from worker.feature import Feature, HookName
from worker.features import FEATURES

PAGE = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("feature", FEATURES[1:], ids=lambda feature: feature.name)
def test_a_feature_has_a_row_with_its_hooks_and_needs(feature: Feature) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{feature.name}` |")]
    end = f" | {', '.join(feature.hooks) or '—'} | {', '.join(feature.needs) or '—'} |"
    assert [row.endswith(end) for row in rows] == [True]


@pytest.mark.parametrize("hook", get_args(HookName))
def test_a_hook_has_a_row(hook: str) -> None:
    assert f"\n| {hook} |" in PAGE
