from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from valetkey.cli.locations import object_argument, objects_argument, resolve_key_option


@click.command()
@object_argument
def one(bucket: str, key: str) -> None:
    click.echo(f"{bucket} {key}", nl=False)


@click.command()
@objects_argument
@click.option("--from", "source")
@click.option("--manifest", callback=resolve_key_option)
def many(bucket: str, keys: tuple[str, ...], **options: Any) -> None:
    click.echo(" ".join([bucket, *keys, *filter(None, options.values())]), nl=False)


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (one, ["demo", "acme/a"], "demo acme/a"),
        (one, ["s3://demo/acme/a"], "demo acme/a"),
        (one, ["s3://demo", "acme/a"], "demo acme/a"),
        (one, ["s3://demo/", "acme/a"], "demo acme/a"),
        (one, ["demo", "s3://demo/acme/a"], "demo acme/a"),
        (one, ["s3://demo/a?b#c%41 d"], "demo a?b#c%41 d"),
        (one, ["s3://demo//a/"], "demo /a/"),
        (one, ["demo", ""], "demo "),
        (many, ["s3://demo/a", "s3://demo/b"], "demo a b"),
        (many, ["demo", "a", "s3://demo/b"], "demo a b"),
        (many, ["s3://demo", "--from", "keys.csv"], "demo keys.csv"),
        (many, ["--manifest", "s3://demo/m", "demo", "--from", "keys.csv"], "demo m keys.csv"),
    ],
)
def test_objects_of_one_bucket_profile_are_named_by_uris_and_by_keys_in_any_mixture(
    command: click.Command, arguments: list[str], expected: str
) -> None:
    result = run(command, *arguments)
    assert (result.exit_code, result.output) == (0, expected)


@pytest.mark.parametrize(
    ("command", "arguments", "error"),
    [
        (one, ["s3://demo"], "s3://demo names no object: write s3://demo/KEY"),
        (one, ["s3://demo/"], "s3://demo/ names no object: write s3://demo/KEY"),
        (one, ["demo"], "Missing argument KEY"),
        (one, ["s3:///a"], "'s3:///a' has no name of a bucket profile"),
        (one, ["S3://demo/a"], "'S3://demo/a' has no name of a bucket profile"),
        (one, ["s3://demo/a", "b"], "s3://demo/a names its key already: leave out 'b'"),
        (one, ["s3://demo/a", "s3://demo/b"], "for one object: leave out 'b'"),
        (one, ["demo", "s3://other/a"], "a request has one bucket profile"),
        (many, ["s3://demo/a", "s3://other/b"], "a request has one bucket profile"),
        (many, ["s3://demo"], "s3://demo names no object: write s3://demo/KEY"),
        (many, ["--manifest", "s3://other/m", "demo"], "'other', and this command is for 'demo'"),
        (many, ["demo", "--from", "keys.csv", "--manifest", ""], "a key must not be empty"),
        (one, ["s3://demo/a\udcff"], "a key must be valid UTF-8"),
    ],
)
def test_a_wrong_location_is_refused_with_a_hint(
    command: click.Command, arguments: list[str], error: str
) -> None:
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert error in " ".join(result.stderr.split())
