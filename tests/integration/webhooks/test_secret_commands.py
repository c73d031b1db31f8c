"""The commands `secret check` and `key`, which read the endpoints of the config."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from tests.support.cli.groups import webhooks
from tests.support.cli.operator import ON_SQLITE, json_lines
from worker.rules.tenant_config import WebhookEndpoint
from worker.webhooks.webhook_secrets import parse_secrets

pytestmark = ON_SQLITE

SECRETS = [f"whsec_{letter * 32}" for letter in "abc"]
OLD_KEY, NEW_KEY = (f"whsk_{letter * 43}=" for letter in "de")
CONTENTS = {
    "symmetric": SECRETS[0],
    "rotated": f"{SECRETS[1]} {SECRETS[0]} until 2100-01-01 {SECRETS[2]} until 2020-01-01",
    "both": f"{SECRETS[0]} {OLD_KEY} until 2100-01-01",
    "renewed": f"{OLD_KEY} until 2100-01-01 {NEW_KEY}",
    "ended": f"{SECRETS[0]} until 2020-01-01",
    "weak": SECRETS[0][:-8],
    "missing": None,
}
Row = tuple[str | None, str | None, str | None]
ROWS: dict[str, list[Row]] = {
    "symmetric": [("v1", None, None)],
    "rotated": [("v1", None, None), ("v1", "2100-01-01T00:00:00Z", None)],
    "both": [("v1", None, None), ("v1a", "2100-01-01T00:00:00Z", None)],
    "renewed": [("v1a", "2100-01-01T00:00:00Z", None), ("v1a", None, None)],
    "ended": [(None, None, "has no secret that signs: the last one ended")],
    "weak": [(None, None, "does not contain valid webhook secrets")],
    "missing": [(None, None, "cannot be read")],
}


def run(*words: str) -> Result:
    result = CliRunner().invoke(webhooks, words, prog_name="python -m worker webhooks")
    for content in CONTENTS.values():
        for word in (content or "").split():
            assert not word.startswith("whs") or word.partition("_")[2] not in result.output
    return result


@pytest.fixture(autouse=True)
def configured(apply_config: ApplyConfig, tmp_path: Path) -> None:
    endpoints = {}
    for name, content in CONTENTS.items():
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        endpoints[name] = WebhookEndpoint(name, "https://hooks.example.com/in", f"file:{file}")
    apply_config(tenant_config(endpoints=endpoints))


@pytest.mark.parametrize("name", CONTENTS)
def test_an_endpoint_is_shown_with_what_signs_or_what_is_wrong(name: str) -> None:
    result = run("secret", "check", f"acme/{name}", "--json")
    rows = json_lines(result)
    assert {(row["tenant"], row["endpoint"]) for row in rows} == {("acme", name)}
    assert [(row["signature"], row["until"]) for row in rows] == [row[:2] for row in ROWS[name]]
    for row, (_, _, problem) in zip(rows, ROWS[name], strict=True):
        assert (row["problem"] is None) == (problem is None)
        assert (problem or "") in (row["problem"] or "")
    assert result.exit_code == int(any(problem for *_, problem in ROWS[name]))


def test_all_endpoints_are_checked_and_one_that_is_wrong_is_a_failure() -> None:
    result = run("secret", "check", "--all")
    assert result.exit_code == 1
    assert all(name in result.stdout for name in CONTENTS)
    assert run("secret", "check", "acme/symmetric", "acme/both").exit_code == 0


def test_a_config_without_endpoints_passes(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())
    result = run("secret", "check", "--all")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no endpoints." in result.stderr


@pytest.mark.parametrize("words", [("secret", "check"), ("secret", "check", "--all", "acme/both")])
def test_the_endpoints_to_check_are_named_or_all(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize("command", [("secret", "check"), ("key",)])
@pytest.mark.parametrize(
    ("name", "hint"),
    [("acme/simetric", "did you mean 'acme/symmetric'?"), ("symmetric", ""), ("globex/both", "")],
)
def test_an_endpoint_that_does_not_exist_is_refused(
    command: tuple[str, ...], name: str, hint: str
) -> None:
    result = run(*command, name)
    assert result.exit_code == 2
    output = " ".join(result.stderr.split())
    assert f"there is no endpoint '{name}'" in output
    assert hint in output


@pytest.mark.parametrize(("name", "key"), [("both", OLD_KEY), ("renewed", NEW_KEY)])
def test_the_public_key_of_the_secret_that_signs_longest_is_printed_alone(
    name: str, key: str
) -> None:
    (secret,) = parse_secrets(key)
    result = run("key", f"acme/{name}")
    assert (result.exit_code, result.stdout) == (0, f"{secret.public_key}\n")
    assert secret.public_key is not None
    assert secret.public_key.startswith("whpk_")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("symmetric", "has no asymmetric secret"),
        ("ended", "the last one ended"),
        ("missing", "cannot be read"),
    ],
)
def test_an_endpoint_without_a_public_key_is_refused(name: str, problem: str) -> None:
    result = run("key", f"acme/{name}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert problem in " ".join(result.stderr.split())
