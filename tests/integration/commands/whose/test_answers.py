"""Answers of `audit whose` beside the verdict, and its refusals."""

import json
import re
from datetime import timedelta

import pytest

from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.cli.pasted_links import KINDS, Whose, issue, pasted, values, verdicts


def test_an_id_or_metadata_is_named_only(service: InProcessService, run: Whose) -> None:
    grant = issue(service, "put")
    head = json.dumps({"ContentLength": 11, "Metadata": {"grant-id": grant["id"]}})
    for given in (grant["id"], f"x-amz-meta-grant-id: {grant['id']}", head):
        result = run("-", "--json", input=given)
        assert (result.exit_code, verdicts(result)) == (0, ["named"])


def test_a_refused_item_was_never_signed(service: InProcessService, run: Whose) -> None:
    request = grant_message(["acme/../a"])
    link = pasted(issue(service, "download"))
    forged = re.sub(r"x-grant-id=[^&]+", f"x-grant-id={request['batch']}.0", link)
    service.issue(request)
    result = run(forged)
    assert (result.exit_code, "FORGED" in result.output) == (1, True)
    assert "refused (key_traversal): nothing was ever signed for it" in result.output


def test_an_expired_link_has_nothing_to_end(
    service: InProcessService, clock: Clock, run: Whose
) -> None:
    link = pasted(issue(service, "download"))
    clock.time += timedelta(seconds=301)
    found = values(run(link, "--json"))
    assert (found["verdict"], found["alive"], found["ends_sooner"]) == ("genuine", False, [])


def test_ways_to_end_a_link_name_the_key_that_signed(service: InProcessService, run: Whose) -> None:
    ways = values(run(pasted(issue(service, "download")), "--json"))["ends_sooner"]
    assert [way for way in ways if "AKIDEXAMPLE" in way]
    assert [way for way in ways if way.startswith("`valetkey cancel` does not end it")]


UNKNOWN = "0199a000-0000-7000-8000-000000000000.7"
SIGNED = f"X-Amz-Date=20261124T123000Z&X-Amz-Signature={'0' * 64}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (UNKNOWN, "no grant with this id"),
        (f"https://a.example/k?x-grant-id={UNKNOWN}&{SIGNED}", "no grant with this id"),
        (f"https://a.example/k?{SIGNED}", "not from this service"),
        (f"https://a.example/k?x-grant-id=abc&{SIGNED}", "not from this service"),
        (f"https://a.example/k?X-Amz-Signature={'0' * 64}", "without X-Amz-Date"),
        ("https://a.example/k", "neither a grant id nor a signature"),
    ],
)
def test_a_link_that_is_not_ours_is_said_to_be(given: str, words: str, run: Whose) -> None:
    result = run(given)
    assert (result.exit_code, words in result.output) == (1, True), result.output
    assert "a.example" not in result.output


@pytest.mark.parametrize("given", ["", "hello", "{}", "\0", "x" * 70_000, "--jsn", "a b c"])
def test_garbage_is_a_wrong_use(given: str, run: Whose) -> None:
    for result in (run(given), run("-", input=given)):
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert given not in result.output or given in {"", "\0"}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_printed_has_a_link_or_signature(
    kind: str, service: InProcessService, run: Whose
) -> None:
    grant = issue(service, kind)
    link = pasted(grant)
    (signature, *_) = re.findall(r"[0-9a-f]{64}", link)
    for given in (link, link[:-1], f"{link} {link[-30:]}", link.replace(signature, "f" * 64)):
        for options in ((), ("--json",)):
            output = run(given, *options).output
            assert not [part for part in (signature, "f" * 64, "://", "Policy") if part in output]
