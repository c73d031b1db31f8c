import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.uses.storage_setup import setup_documents, setup_names, setup_steps
from worker.uses.use_commands import uses

Setup = Callable[..., Result]

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(database_url: str, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    config = tenant_config()
    onsite = replace(config.buckets["demo"], name="onsite", provider="other")
    arn = "arn:aws:s3:us-east-1:111122223333:accesspoint/reports"
    point = replace(config.buckets["demo"], name="point", bucket=arn)
    default = replace(config.buckets["demo"], name="default", endpoint=None)
    added = {bucket.name: bucket for bucket in (onsite, point, default)}
    buckets = {**config.buckets, **added}
    apply_config(TenantConfig(buckets, config.tenants))
    return lambda *words: CliRunner().invoke(uses, ["setup", *words])


def test_the_setup_of_aws_names_bucket_queue_and_account(run: Setup) -> None:
    documents = json.loads(run("demo", "--account", "999988887777", "--json").stdout)
    queue = "arn:aws:sqs:us-east-1:999988887777:valetkey-demo"
    statement = json.loads(documents["queue.json"]["Policy"])["Statement"][0]
    assert statement["Resource"] == queue
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "999988887777"}
    [notification] = documents["notification.json"]["QueueConfigurations"]
    assert notification["QueueArn"] == queue
    deletions = {"s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"}
    assert deletions < set(notification["Events"])


def test_every_file_that_a_command_reads_is_printed_before_it(run: Setup) -> None:
    for words in (("demo",), ("onsite", "--storage", "rgw")):
        output = run(*words).stdout
        printed = set(re.findall(r"^cat > (\S+) <<", output, re.MULTILINE))
        assert set(re.findall(r"file://(\S+)", output)) <= printed


@ON_SQLITE
@pytest.mark.parametrize("storage", ["aws", "minio", "rgw", "seaweedfs"])
def test_every_storage_has_steps_without_open_placeholders(run: Setup, storage: str) -> None:
    result = run("onsite", "--storage", storage)
    assert result.exit_code == 0
    assert "{" not in re.sub(r"(?s)cat > .*?\nEND\n", "", result.stdout)


@ON_SQLITE
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onsite",), "onsite is not on AWS: add --storage minio, rgw or seaweedfs"),
        (("dem",), "there is no bucket profile 'dem': did you mean 'demo'?"),
        (("demo", "--account", "abc"), "an AWS account is 12 digits"),
        (("demo", "--queue", "x.fifo"), "storage sends to no FIFO queue"),
        (("demo", "--queue", 'a"; rm -rf x'), "a queue's name is 1 to 80 characters"),
        (("onsite", "--storage", "minio", "--json"), "minio needs no documents"),
        (("point",), "point is an access point"),
    ],
)
def test_a_wrong_use_says_what_to_write(run: Setup, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True)


@pytest.mark.parametrize(
    ("endpoint", "exit_code"),
    [("http://127.0.0.1:8333", 2), ("https://s3.us-east-1.amazonaws.com", 0)],
)
def test_a_default_endpoint_that_is_not_of_aws_needs_its_storage(
    endpoint: str, exit_code: int, run: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", endpoint)
    result = run("default")
    refused = "default is not on AWS" in result.output
    assert (result.exit_code, refused) == (exit_code, exit_code == 2)
    assert run("default", "--storage", "seaweedfs").exit_code == 0


def test_names_are_words_of_the_shell() -> None:
    bucket = Bucket("demo", "a; b", "us-east-1")
    steps = setup_steps("aws", setup_names(bucket, "111122223333", "$(c)"))
    assert "--bucket 'a; b'" in steps
    assert "--queue-name '$(c)'" in steps
    assert "--bucket 'a; b-logs'" in steps


@pytest.mark.parametrize(
    ("region", "partition", "domain"),
    [
        ("us-east-1", "aws", "amazonaws.com"),
        ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
    ],
)
def test_arns_and_urls_are_those_of_the_partition(region: str, partition: str, domain: str) -> None:
    names = setup_names(Bucket("demo", "b", region), "111122223333", "q")
    assert names.queue_arn == f"arn:{partition}:sqs:{region}:111122223333:q"
    assert names.queue_url == f"https://sqs.{region}.{domain}/111122223333/q"
    assert "arn:aws:s3" not in json.dumps(setup_documents("aws", names)) or partition == "aws"
