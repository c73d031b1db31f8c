"""Marks tests of the core that use a feature."""

import pytest

from worker.features import NAMES


def needs(feature: str) -> pytest.MarkDecorator:
    """Skip a test where a feature was deleted, as `make without` does."""
    return pytest.mark.skipif(feature not in NAMES, reason=f"it uses the feature {feature}")
