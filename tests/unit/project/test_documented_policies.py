"""The policies in docs/security.md are those that the code writes and needs."""

import json
import re
from typing import Any

from tests.support.docs.command_lines import ROOT
from worker.core.signing.session_policy import session_policy
from worker.core.signing.sigv4 import ALGORITHM

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POLICIES: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
]
SESSION, SIGNER, TRUST, BUCKET = POLICIES


def test_the_session_policy_is_the_one_that_is_sent() -> None:
    role = TRUST["Statement"][0]["Principal"]["AWS"]
    assert json.loads(session_policy(role, "acme-reports", ("acme/",))) == SESSION


def test_the_signer_may_do_what_a_session_may() -> None:
    assert SIGNER["Statement"][0]["Action"] == SESSION["Statement"][0]["Action"]


def test_the_bucket_takes_the_signatures_that_are_made() -> None:
    conditions = {s["Sid"]: s["Condition"] for s in BUCKET["Statement"]}
    taken = conditions["SignatureVersion4Only"]["StringNotEquals"]["s3:signatureversion"]
    assert taken == ALGORITHM
