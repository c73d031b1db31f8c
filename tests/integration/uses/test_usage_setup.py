import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from worker.commands.usage.group import usage
from worker.core.tenants.config import TenantConfig

Setup = Callable[..., Result]


@pytest.fixture
def run(database_url: str, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    config = tenant_config()
    onsite = replace(config.buckets["demo"], name="onsite", provider="other")
    apply_config(TenantConfig({**config.buckets, "onsite": onsite}, config.tenants))
    return lambda *words: CliRunner().invoke(usage, ["setup", *words])


def test_the_setup_of_aws_names_bucket_queue_and_account(run: Setup) -> None:
    documents = json.loads(run("demo", "--account", "999988887777", "--json").stdout)
    queue = "arn:aws:sqs:us-east-1:999988887777:valetkey-demo"
    statement = json.loads(documents["queue.json"]["Policy"])["Statement"][0]
    assert statement["Resource"] == queue
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "999988887777"}
    [notification] = documents["notification.json"]["QueueConfigurations"]
    assert notification["QueueArn"] == queue


def test_every_file_that_a_command_reads_is_printed_before_it(run: Setup) -> None:
    for words in (("demo",), ("onsite", "--storage", "rgw")):
        output = run(*words).stdout
        printed = set(re.findall(r"^cat > (\S+) <<", output, re.MULTILINE))
        assert set(re.findall(r"file://(\S+)", output)) <= printed


@pytest.mark.parametrize("storage", ["aws", "minio", "rgw", "seaweedfs"])
def test_every_storage_has_steps_without_open_placeholders(run: Setup, storage: str) -> None:
    result = run("onsite", "--storage", storage)
    assert result.exit_code == 0
    assert "{" not in re.sub(r"(?s)cat > .*?\nEND\n", "", result.stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onsite",), "onsite is not on AWS: add --storage minio, rgw or seaweedfs"),
        (("dem",), "there is no bucket profile 'dem': did you mean 'demo'?"),
    ],
)
def test_a_wrong_use_says_what_to_write(run: Setup, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True)
