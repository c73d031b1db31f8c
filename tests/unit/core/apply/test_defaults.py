from typing import Any

import pytest

from worker.core.apply.defaults import is_default

DEFAULTS: list[tuple[str, Any]] = [
    ("tenants.acme.max_batch", 100_000),
    ("tenants.acme.allow.demo.shared", False),
    ("tenants.acme.allow.demo.content_types", ["application/octet-stream"]),
    ("tenants.acme.keys.billing.revoked", False),
    ("buckets.demo.provider", "aws"),
]
EDITS: list[tuple[str, Any, Any]] = [
    ("tenants.acme.max_batch", 5, 100_000),  # set back to its default
    ("tenants.acme.max_batch", None, 5),
    ("tenants.acme.trust", None, "keys"),
    ("tenants.acme.allow.demo.max_size", None, False),  # 0 is the default, and no boolean
    ("tenants.acme.allow.demo.prefixes", None, ["a/"]),
    ("tenants.acme.quotas.grants.hour", None, 0),
    ("tenants.acme.endpoints.hook.url", None, "https://example.com"),
    ("buckets.demo.bucket", None, "reports"),
]


@pytest.mark.parametrize(("path", "value"), DEFAULTS)
def test_a_default_of_a_new_or_removed_table_is_no_edit(path: str, value: Any) -> None:
    assert is_default(path, None, value)
    assert is_default(path, value, None)


@pytest.mark.parametrize(("path", "before", "after"), EDITS)
def test_every_other_change_is_an_edit(path: str, before: Any, after: Any) -> None:
    assert not is_default(path, before, after)
