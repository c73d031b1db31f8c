"""docs/contract.md has the examples and numbers of the code; docs/contract is generated."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

import celeryconfig
from tests.support.docs.command_lines import ROOT
from valetkey.crypto import jose
from valetkey.crypto.keys import dump_private_key, generate_key
from valetkey.delivery import retransmit
from valetkey.signing import object_keys
from valetkey.webhooks import UploadStored
from valetkey.wire import events, messages, terms
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code
from valetkey.wire.unavailable import Part, read_unavailable
from worker import clock
from worker.__main__ import main
from worker.broker import lanes, message_guard
from worker.contract.contract_command import FILES, read_codes
from worker.contract.json_schemas import (
    envelope_schema,
    reply_classes,
    reply_schema,
    request_classes,
    result_schema,
    webhook_schema,
)
from worker.rules import authentication, grant_kinds
from worker.webhooks import webhook_client, webhook_rules

PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
ENVELOPE, RESULT, HINT, REQUEST, REPLY, KEY_FILE, UPLOAD_EVENT = (
    json.loads(block)
    for block in re.findall(r"^```json\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
MIB = 1024**2


def is_valid(schema: dict[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


def test_the_webhook_about_uploads_is_valid_and_becomes_an_event() -> None:
    assert is_valid(webhook_schema(), UPLOAD_EVENT)
    assert UploadStored.model_validate_json(json.dumps(UPLOAD_EVENT))


def test_the_envelope_is_valid_and_contains_a_request() -> None:
    assert is_valid(envelope_schema(), ENVELOPE)
    frame = message_guard.read_frame(json.dumps(ENVELOPE).encode(), "valetkey", datetime.now(UTC))
    assert frame["headers"]["id"] == ENVELOPE["headers"]["id"]
    text = base64.b64decode(ENVELOPE["body"]).decode()
    assert f"`{text}`" in PAGE
    ((request,), _, _) = json.loads(text)
    assert isinstance(parse_message(request), messages.UsageMessage)


def test_the_result_and_the_reply_are_valid() -> None:
    assert is_valid(result_schema(), RESULT)
    for reply in (RESULT["result"], REPLY):
        assert is_valid(reply_schema(), reply)


def test_the_hint_of_an_unavailable_service_is_the_one_that_workers_store() -> None:
    assert is_valid(result_schema(), HINT)
    hint = read_unavailable(HINT["result"], HINT["result"]["at"])
    assert hint is not None
    assert hint.celery_error() == HINT["result"]
    parts = re.search(r"^\| `part` \| (.+?) for anything else", PAGE, re.MULTILINE)
    assert parts is not None
    assert re.findall(r"`(\w+)`", parts[1]) == list(get_args(Part))


def test_the_request_is_valid_and_has_the_reply_that_follows() -> None:
    request = parse_message(REQUEST)
    assert isinstance(request, messages.ChunkMessage)
    assert (REPLY["batch"], REPLY["chunk"]) == (request.batch, request.chunk)
    (grant,) = REPLY["items"]
    assert grant["id"] == messages.grant_id(request.batch, request.first_item)


def test_the_key_file_has_the_members_that_keygen_writes() -> None:
    key = json.loads(dump_private_key(generate_key("acme/billing")))
    assert [half.keys() for half in KEY_FILE["keys"]] == [half.keys() for half in key["keys"]]
    for half, written in zip(KEY_FILE["keys"], key["keys"], strict=True):
        assert {name: written[name] for name in ("use", "kty", "crv")} == {
            name: half[name] for name in ("use", "kty", "crv")
        }


@pytest.mark.parametrize("name", [item.__name__ for item in (*request_classes(), *reply_classes())])
def test_every_request_and_reply_is_mentioned(name: str) -> None:
    assert f"`{name}`" in PAGE, f"add a row for {name} to the table in docs/contract.md"


@pytest.mark.parametrize("item", request_classes(), ids=lambda item: item.__name__)
def test_every_ask_is_mentioned(item: Any) -> None:
    for ask in re.findall(r"'(\w+)'", str(item.model_fields["ask"].annotation)):
        assert f"`{ask}`" in PAGE, f"add a row for the ask {ask} to the table in docs/contract.md"


LIMITS: dict[str, tuple[int | float | timedelta, int | float | timedelta]] = {
    "items in a batch | 1,000,000,": (messages.MAX_BATCH_ITEMS, 1_000_000),
    "50 for `multipart`": (grant_kinds.MAX_MULTIPART_ITEMS, 50),
    "items in a message | 1,000; 600 is": (messages.MAX_CHUNK_ITEMS, 1_000),
    "Without `chunk_size`, it is 600": (messages.DEFAULT_CHUNK_ITEMS, 600),
    "batches of up to 20 items": (messages.MAX_INTERACTIVE_ITEMS, 20),
    "1 to 604,800 seconds": (terms.MAX_EXPIRES_IN, 604_800),
    "1,024 bytes of UTF-8": (object_keys.MAX_KEY_BYTES, 1_024),
    "5 GiB for `upload` and `put`": (terms.MAX_OBJECT_BYTES, 5 * 1024**3),
    "5 TiB for `multipart`, in up to 10,000 parts": (terms.MAX_MULTIPART_BYTES, 5 * 1024**4),
    "envelope | 8 MiB": (message_guard.MAX_FRAME_BYTES, 8 * MIB),
    "payload of a signed request | 4,194,304 bytes": (jose.MAX_MESSAGE_BYTES, 4 * MIB),
    "content of a sealed reply | 16,777,216 bytes": (jose.MAX_RESPONSE_BYTES, 16 * MIB),
    "age of a signed request | 86,400 seconds": (authentication.MAX_MESSAGE_AGE, 86_400),
    "60 seconds ahead": (clock.MAX_CLOCK_SKEW, 60),
    "stored result | 900 seconds": (celeryconfig.result_expires, 900),
    "more than 20,000 JSON objects and arrays": (message_guard.MAX_BODY_CONTAINERS, 20_000),
    "more than 32 levels": (message_guard.MAX_BODY_DEPTH, 32),
    "more than 120 seconds ahead": (message_guard.MAX_ETA_DELAY, timedelta(seconds=120)),
    "1 to 255 printable characters": (message_guard.MAX_ID_LENGTH, 255),
    "more than 32 members": (message_guard._MAX_FRAME_MEMBERS, 32),
    "or 64 headers": (message_guard._MAX_HEADERS, 64),
    "first 2,048 bytes": (lanes.PREFIX_BYTES, 2_048),
    "after 3 seconds, and then": (retransmit.FIRST_INTERVAL, 3),
    "and every 60 seconds": (retransmit.MAX_INTERVAL, 60),
    "some 32 messages": (retransmit.DEFAULT_WINDOW, 32),
    "of at most 256 KiB": (events.MAX_WEBHOOK_BYTES, 256 * 1024),
    "2xx within 15 seconds": (webhook_client.TIMEOUT, timedelta(seconds=15)),
    "10 attempts in all over some 60 hours": (len(webhook_rules.RETRY_SCHEDULE), 10),
    "`Retry-After`, up to a day": (webhook_rules.MAX_RETRY_DELAY, timedelta(days=1)),
}


@pytest.mark.parametrize("text", LIMITS)
def test_a_number_of_the_page_is_that_of_the_code(text: str) -> None:
    in_code, in_page = LIMITS[text]
    assert text in " ".join(PAGE.split())
    assert in_code == in_page


def test_the_page_links_to_every_generated_file() -> None:
    links = set(re.findall(r"\]\(contract/([\w.]+)\)", PAGE))
    assert links == {path.name for path in (ROOT / "docs" / "contract").iterdir()}


FOLDER = Path(__file__).parents[3] / "docs" / "contract"


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_messages_generate(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == FILES[name](), f"docs/contract/{name} is not up to date: run `make contract`"


def test_the_folder_has_no_other_file() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


def test_the_command_writes_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "contract"
    completed = CliRunner().invoke(main, ["contract", "--out", str(folder)])
    assert completed.exit_code == 0
    assert completed.output.splitlines() == [str(folder / name) for name in FILES]
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert written == {name: generate() for name, generate in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_the_command_prints_each_document(name: str) -> None:
    completed = CliRunner().invoke(main, ["contract", name.partition(".")[0]])
    assert (completed.exit_code, completed.output) == (0, FILES[name]())


@pytest.mark.parametrize("words", [[], ["codes", "--out", "x"]], ids=["nothing", "both"])
def test_the_command_asks_for_a_document_or_a_folder(words: list[str]) -> None:
    completed = CliRunner().invoke(main, ["contract", *words])
    assert completed.exit_code == 2
    assert "name one document, or give --out" in completed.output


@pytest.mark.parametrize(
    ("folder", "problem"),
    [(".", "codes.md cannot be written: Is a directory."), ("file/below", "Not a directory.")],
)
def test_the_file_or_folder_that_cannot_be_written_is_named(
    tmp_path: Path, folder: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "codes.md").mkdir()
    completed = CliRunner().invoke(main, ["contract", "--out", str(tmp_path / folder)])
    assert completed.exit_code == 1
    assert problem in completed.output


def test_an_empty_name_of_a_folder_is_not_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completed = CliRunner().invoke(main, ["contract", "--out", ""])
    assert completed.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_every_code_has_a_meaning_and_a_topic() -> None:
    # The comment beside a code in valetkey/wire/refusals.py is its meaning.
    codes = read_codes()
    assert [item.code for item in codes] == [code.value for code in Code]
    assert [item.code for item in codes if not item.meaning or "noqa" in item.meaning] == []
    assert [item.code for item in codes if not item.topic] == []
