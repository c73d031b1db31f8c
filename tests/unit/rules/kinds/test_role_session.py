"""Role sessions are limited to the prefixes of one tenant."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from worker.rules.role_session import SessionLimit, role_session, session_policy
from worker.rules.tenant_config import Bucket
from worker.shared.limited_sessions import listing_session, policy_session, versioning_session

ROLE = "arn:aws:iam::111122223333:role/valetkey"
BUCKET = Bucket("reports", "acme-reports", "eu-central-1", role_arn=ROLE)


def s3_statement(prefixes: tuple[str, ...], role: str = ROLE) -> dict[str, Any]:
    policy: dict[str, Any] = json.loads(session_policy(role, "acme-reports", prefixes))
    return next(s for s in policy["Statement"] if s["Action"][0].startswith("s3:"))


@pytest.mark.parametrize(
    ("prefixes", "resources"),
    [
        (("acme/", "shared/acme/"), ["acme/*", "shared/acme/*"]),
        (("",), ["*"]),  # the whole bucket
        *(((f"a{wildcard}/",), [f"a${{{wildcard}}}/*"]) for wildcard in "*?$"),
    ],
)
@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_a_session_may_use_the_objects_under_the_tenants_prefixes_in_the_partition_of_its_role(
    partition: str, prefixes: tuple[str, ...], resources: list[str]
) -> None:
    statement = s3_statement(prefixes, ROLE.replace("arn:aws:", f"arn:{partition}:"))
    bucket = f"arn:{partition}:s3:::acme-reports"
    assert statement["Resource"] == [f"{bucket}/{resource}" for resource in resources]


def test_a_policy_has_only_characters_that_sts_accepts() -> None:
    # AWS: API_AssumeRole.html, the pattern of Policy
    policy = session_policy(ROLE, "acme-reports", ("größe/日本/😀/",))
    assert re.fullmatch(r"[\t\n\r -\xff]+", policy)
    assert json.loads(policy)["Statement"][0]["Resource"][0].endswith("/größe/日本/😀/*")


def test_the_name_of_a_session_is_cut_to_the_64_characters_that_sts_accepts() -> None:
    session = role_session(ROLE, BUCKET, "a" * 63, ("acme/",))
    assert session.name == f"valetkey-{'a' * 55}"


def test_the_repr_of_a_session_has_neither_external_id_nor_policy() -> None:
    bucket = replace(BUCKET, external_id="secret-external-id")
    session = role_session(ROLE, bucket, "acme", ("acme/",))
    assert "secret-external-id" not in repr(session)
    assert "acme-reports" not in repr(session)


def statements(limit: SessionLimit, prefixes: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    session = limit(role_session(ROLE, BUCKET, "x", prefixes), "acme-reports", prefixes)
    found: list[dict[str, Any]] = json.loads(session.policy)["Statement"]
    return found


def test_a_session_for_revocations_may_change_the_buckets_policy_and_nothing_else() -> None:
    [statement] = statements(policy_session)
    assert statement["Resource"] == "arn:aws:s3:::acme-reports"
    assert statement["Action"] == [
        "s3:DeleteBucketPolicy",
        "s3:GetBucketPolicy",
        "s3:PutBucketPolicy",
    ]


def test_a_session_for_versions_may_read_whether_there_are_any_and_nothing_else() -> None:
    [statement] = statements(versioning_session)
    assert statement["Action"] == ["s3:GetBucketVersioning"]
    assert statement["Resource"] == "arn:aws:s3:::acme-reports"


def test_a_session_for_access_logs_may_list_and_read_below_their_prefix() -> None:
    listing, reading, _ = statements(listing_session, ("logs/",))
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["logs/*"]}}
    assert (listing["Action"], listing["Resource"]) == (
        "s3:ListBucket",
        "arn:aws:s3:::acme-reports",
    )
    assert reading["Action"] == "s3:GetObject"
    assert reading["Resource"] == ["arn:aws:s3:::acme-reports/logs/*"]
