"""Marks tests of the core that use a feature."""

import pytest

from worker.features import FEATURES


def needs(feature: str) -> pytest.MarkDecorator:
    """Skip a test where a feature was deleted, as `make without` does."""
    names = [each.name for each in FEATURES]
    return pytest.mark.skipif(feature not in names, reason=f"it uses the feature {feature}")
