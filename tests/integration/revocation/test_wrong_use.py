"""Revocations that are refused, or find nothing."""

import pytest

from tests.integration.revocation.conftest import KEY, Revoke, issue
from tests.support.builders.services import InProcessService


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give one of --grant, --batch, --key, --prefix, --tenant, --credentials."),
        (("--batch", "x", "--tenant", "acme"), "Give one of --grant"),
        (("--batch", "x"), "this is not the id of a batch"),
        (("--grant", "x.1"), "an id of a grant is a batch id, a dot and a number"),
        (("--key", "acme/a.pdf"), "write s3://PROFILE/KEY"),
        (("--prefix", "s3://demo/"), "write s3://PROFILE/PREFIX"),
        (("--key", "s3://dem/a"), "there is no bucket profile 'dem': did you mean demo?"),
        (("--tenant", ""), "it is empty"),
        (("--tenant", "acme", "--reason", "a\nb"), "write 1 to 200 characters on one line"),
        (("--tenant", "acme", "--reason", "x" * 201), "write 1 to 200 characters on one line"),
    ],
)
def test_a_wrong_use_says_what_to_write(run: Revoke, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True)


def test_nothing_to_revoke_is_said(run: Revoke) -> None:
    result = run("--tenant", "acme", "--yes")
    assert (result.exit_code, "there is nothing to revoke" in result.output) == (1, True)


def test_no_link_is_printed(run: Revoke, service: InProcessService) -> None:
    [grant] = issue(service, KEY)
    output = run("--grant", grant["id"], "--yes").output
    assert "X-Amz" not in output
    assert grant["url"] not in output
