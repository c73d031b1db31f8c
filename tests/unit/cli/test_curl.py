import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import grants
from tests.support.builders.grants import ODD, URL
from valetkey.cli.snippets import curl
from valetkey.wire.messages import Grant

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


def after(option: str, words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def commands(grant: Grant) -> list[list[str]]:
    return [shlex.split(line.removeprefix("# ")) for line in curl(grant).splitlines()]


@given(printable)
def test_a_form_sends_every_field_as_it_is_and_the_file_last(key: str) -> None:
    grant = grants.form(key, **{"x-amz-meta-a": f"@{key}"})
    words = shlex.split(curl(grant, "cat.jpg"))
    assert after("--form-string", words) == [f"{n}={value}" for n, value in grant.fields.items()]
    assert words[-4:] == ["--form", 'file=@"cat.jpg"', "--url", URL]


def test_a_form_whose_client_chooses_the_type_asks_the_file_for_it() -> None:
    line = curl(grants.form(family="image/"), "it's.jpg")
    own = "$(file --brief --mime-type -- 'it'\"'\"'s.jpg')"
    assert f' --form-string "Content-Type={own}" --form ' in line


@pytest.mark.parametrize(
    ("path", "quoted"),
    [("a;b,c.txt", 'file=@"a;b,c.txt"'), ('a"b\\c', 'file=@"a\\"b\\\\c"')],
)
def test_a_path_that_is_special_to_curl_is_quoted_for_it(path: str, quoted: str) -> None:
    assert quoted in shlex.split(curl(grants.form(), path))


@given(printable)
def test_a_put_sends_the_file_and_every_header_that_curl_does_not_send_itself(value: str) -> None:
    grant = grants.put(headers={"x-amz-tagging": value, "if-none-match": "*"})
    words = shlex.split(curl(grant, "cat.jpg"))
    assert after("--header", words) == [f"x-amz-tagging: {value}", "if-none-match: *"]
    assert after("--upload-file", words) == ["cat.jpg"]
    assert words[-2:] == ["--url", URL]


def test_an_empty_header_is_sent_and_not_left_out() -> None:
    words = shlex.split(curl(grants.put(headers={"x-amz-meta-a": ""})))
    assert after("--header", words) == ["x-amz-meta-a;"]


def test_a_part_is_a_file_of_its_own_and_shows_its_etag() -> None:
    words = shlex.split(curl(grants.put(headers={}, part=3)))
    assert after("--upload-file", words) == ["cat.jpg.part3"]
    assert after("--dump-header", words) == ["-"]


def test_a_download_is_written_under_the_keys_last_name() -> None:
    words = shlex.split(curl(grants.grant(headers={"x-amz-expected-bucket-owner": "1"})))
    assert after("--output", words) == ["cat.jpg"]
    assert after("--header", words) == ["x-amz-expected-bucket-owner: 1"]


def test_a_head_asks_for_headers_alone() -> None:
    words = shlex.split(curl(grants.grant(method="HEAD")))
    assert "--head" in words
    assert "--output" not in words


def test_a_multipart_upload_is_completed_and_its_abort_is_only_shown() -> None:
    _, complete, _, abort = commands(grants.multipart())
    assert after("--request", complete) == ["POST"]
    assert after("--data-binary", complete) == ["@parts.xml"]
    assert (after("--request", abort), after("--url", abort)) == (["DELETE"], [f"{URL}&abort"])
    assert [line[0] for line in curl(grants.multipart()).splitlines()] == ["#", "c", "#", "#"]


@pytest.mark.parametrize("name", ["-", "."])
def test_a_file_that_curl_would_take_for_its_input_is_named_as_a_file(name: str) -> None:
    assert after("--upload-file", shlex.split(curl(grants.put(), name))) == [f"./{name}"]


def test_a_key_whose_name_the_client_chooses_has_a_file_of_some_name() -> None:
    words = shlex.split(curl(grants.form("in/${filename}")))
    assert 'file=@"file"' in words


@pytest.mark.parametrize("grant", [grants.form(ODD), grants.put(ODD), grants.grant(ODD)])
def test_a_command_is_one_line_that_reads_the_url_as_it_is(grant: Grant) -> None:
    words = shlex.split(curl(grant))
    assert {"--globoff", "--path-as-is"} <= set(words)
    assert "\n" not in curl(grant)
