import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import grants
from tests.support.builders.grants import ODD, URL
from valetkey.cli.snippets import render_curl
from valetkey.wire.replies import Grant

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


def words_of(command: str) -> list[str]:
    """Return the words of a command that prints that the file is stored."""
    curl, _, echo = command.rpartition(" && ")
    assert echo == "echo stored"
    return shlex.split(curl)


def values_of(option: str, words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


@given(printable)
def test_a_form_sends_every_field_unchanged_and_the_file_last(key: str) -> None:
    grant = grants.form(key, **{"x-amz-meta-a": f"@{key}"})
    words = words_of(render_curl(grant, "cat.jpg"))
    fields = [f"{name}={value}" for name, value in grant.fields.items()]
    assert values_of("--form-string", words) == fields
    assert words[-4:] == ["--form", 'file=@"cat.jpg"', "--url", URL]


@given(printable)
def test_a_put_sends_the_file_and_the_headers_that_curl_does_not_add(value: str) -> None:
    grant = grants.put(headers={"x-amz-tagging": value, "if-none-match": "*"})
    words = words_of(render_curl(grant, "cat.jpg"))
    assert values_of("--header", words) == [f"x-amz-tagging: {value}", "if-none-match: *"]
    assert values_of("--upload-file", words) == ["cat.jpg"]
    assert words[-2:] == ["--url", URL]


def test_a_download_is_written_under_the_keys_last_name() -> None:
    words = shlex.split(render_curl(grants.grant(headers={"x-amz-expected-bucket-owner": "1"})))
    assert values_of("--output", words) == ["cat.jpg"]
    assert values_of("--header", words) == ["x-amz-expected-bucket-owner: 1"]


def test_a_head_requests_headers_only() -> None:
    words = shlex.split(render_curl(grants.grant(method="HEAD")))
    assert "--head" in words
    assert "--output" not in words


def test_the_completion_of_a_multipart_upload_runs_and_its_abort_is_a_comment() -> None:
    lines = render_curl(grants.multipart()).splitlines()
    _, complete, _, abort = (shlex.split(line.removeprefix("# ")) for line in lines)
    assert values_of("--request", complete) == ["POST"]
    assert values_of("--data-binary", complete) == ["@parts.xml"]
    assert (values_of("--request", abort), values_of("--url", abort)) == (
        ["DELETE"],
        [f"{URL}&abort"],
    )
    assert "".join(line[0] for line in lines) == "#c##"


@pytest.mark.parametrize("name", ["-", "."])
def test_a_file_name_that_means_stdin_to_curl_gets_a_path(name: str) -> None:
    assert values_of("--upload-file", shlex.split(render_curl(grants.put(), name))) == [f"./{name}"]


def test_a_key_with_a_file_name_variable_uses_a_default_file_name() -> None:
    words = shlex.split(render_curl(grants.form("in/${filename}")))
    assert 'file=@"file"' in words


@pytest.mark.parametrize("grant", [grants.form(ODD), grants.put(ODD), grants.grant(ODD)])
def test_a_command_is_one_line_that_uses_the_url_unchanged(grant: Grant) -> None:
    words = shlex.split(render_curl(grant))
    assert {"--globoff", "--path-as-is"} <= set(words)
    assert "\n" not in render_curl(grant)
