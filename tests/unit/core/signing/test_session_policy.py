"""What a role is assumed with: a session that can do nothing outside of one tenant's prefixes."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from worker.core.signing.session_policy import role_session, session_policy
from worker.core.tenants.config import Bucket

ROLE = "arn:aws:iam::111122223333:role/valetkey"
BUCKET = Bucket("reports", "acme-reports", "eu-central-1", role_arn=ROLE)


def statement(prefixes: tuple[str, ...], role: str = ROLE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(session_policy(role, "acme-reports", prefixes))
    return next(s for s in found["Statement"] if s["Action"][0].startswith("s3:"))


def test_a_session_is_for_the_objects_under_the_tenants_prefixes() -> None:
    assert statement(("acme/", "shared/acme/"))["Resource"] == [
        "arn:aws:s3:::acme-reports/acme/*",
        "arn:aws:s3:::acme-reports/shared/acme/*",
    ]


def test_a_session_may_neither_list_nor_delete() -> None:
    assert statement(("acme/",))["Action"] == [
        "s3:AbortMultipartUpload",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:PutObjectTagging",
    ]


def test_the_whole_bucket_is_its_objects() -> None:
    assert statement(("",))["Resource"] == ["arn:aws:s3:::acme-reports/*"]


def test_a_session_is_in_the_partition_of_its_role() -> None:
    role = ROLE.replace("arn:aws:", "arn:aws-cn:")
    assert statement(("acme/",), role)["Resource"] == ["arn:aws-cn:s3:::acme-reports/acme/*"]


@pytest.mark.parametrize("sign", ["*", "?", "$"])
def test_a_wildcard_in_a_prefix_means_itself(sign: str) -> None:
    (resource,) = statement((f"a{sign}/",))["Resource"]
    assert resource == f"arn:aws:s3:::acme-reports/a${{{sign}}}/*"


def test_a_policy_is_written_in_the_characters_that_sts_takes() -> None:
    # AWS: API_AssumeRole.html, the pattern of Policy
    policy = session_policy(ROLE, "acme-reports", ("größe/日本/😀/",))
    assert re.fullmatch(r"[\t\n\r -\xff]+", policy)
    assert json.loads(policy)["Statement"][0]["Resource"][0].endswith("/größe/日本/😀/*")


def test_keys_of_kms_are_used_by_way_of_s3_only() -> None:
    keys = json.loads(session_policy(ROLE, "acme-reports", ("acme/",)))["Statement"][1]
    assert keys["Condition"] == {"StringLike": {"kms:ViaService": "s3.*"}}


def test_a_session_is_named_after_its_tenant() -> None:
    role = role_session(BUCKET, "acme", ("acme/",))
    assert role is not None
    assert role.session == "valetkey-acme"


def test_the_name_of_a_session_is_cut_to_what_sts_takes() -> None:
    role = role_session(BUCKET, "a" * 63, ("acme/",))
    assert role is not None
    assert len(role.session) == 64


def test_a_bucket_without_a_role_assumes_none() -> None:
    assert role_session(replace(BUCKET, role_arn=None), "acme", ("acme/",)) is None


def test_neither_an_external_id_nor_a_policy_prints() -> None:
    role = role_session(replace(BUCKET, external_id="only-we-know"), "acme", ("acme/",))
    assert "only-we-know" not in repr(role)
    assert "acme-reports" not in repr(role)
