"""Tests that the policies in docs/security.md are those that the code creates and needs."""

import json
import re
from typing import Any

from tests.support.docs.command_lines import ROOT
from worker.core.kinds.role_session import session_policy
from worker.core.signing.sigv4 import ALGORITHM

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POLICIES: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
]
SESSION, SIGNER, TRUST, BUCKET, ENDING = POLICIES


def test_the_session_policy_is_the_one_of_the_code() -> None:
    role = TRUST["Statement"][0]["Principal"]["AWS"]
    assert json.loads(session_policy(role, "acme-reports", ("acme/",))) == SESSION


def test_the_signer_has_the_actions_of_a_session() -> None:
    assert SIGNER["Statement"][0]["Action"] == SESSION["Statement"][0]["Action"]


def test_the_bucket_accepts_the_signature_version_of_the_code() -> None:
    conditions = {statement["Sid"]: statement["Condition"] for statement in BUCKET["Statement"]}
    version = conditions["SignatureVersion4Only"]["StringNotEquals"]["s3:signatureversion"]
    assert version == ALGORITHM


def test_the_policy_that_ends_sessions_has_the_actions_that_the_code_calls() -> None:
    source = (ROOT / "worker" / "aws" / "role_policies.py").read_text(encoding="utf-8")
    methods = set(re.findall(r"\.((?:get|put|delete)_role(?:_policy)?)\b", source))
    actions = {"iam:" + method.title().replace("_", "") for method in methods}
    assert set(ENDING["Statement"][0]["Action"]) == actions
