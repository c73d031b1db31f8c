"""What a session of a role signs. SeaweedFS has no roles without a file that declares them."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import boto3
import pytest

from tests.contract.test_upload import FILE, FORGED
from tests.contract.test_upload_options import with_field
from tests.support.s3.http_requests import Request, get, post, put, send
from tests.support.s3.misuses import MINISTACK, SECRET, Misuse, each, prove
from tests.support.s3.queries import Change, changed, flipped, replaced, without
from tests.support.s3.stores import DOWNLOAD, OWNER, PUT, ROLE, UPLOAD, Store, fresh
from valetkey.wire.messages import Grant
from worker.devstack.storage import Storage

ANYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
TOKEN = "X-Amz-Security-Token"


def client(storage: Storage, service: str) -> Any:
    return boto3.client(
        service,
        region_name=storage.region,
        endpoint_url=storage.endpoint,
        aws_access_key_id=storage.access_key,
        aws_secret_access_key=storage.secret_key,
    )


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="module", autouse=True)
def _role(ministack: Storage) -> None:
    iam = client(ministack, "iam")
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=policy(TRUST))
    iam.put_role_policy(RoleName=ROLE, PolicyName="s3", PolicyDocument=policy(ANYTHING))


@pytest.fixture(params=MINISTACK)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Iterator[Store]:
    """The server that has roles, one of which the bucket profile "assumed" names."""
    store = stores[request.param]
    yield store
    store.empty()


def link(store: Store, key: str) -> Request:
    return get(store.download(key, bucket="assumed").url)


def form(store: Store, key: str) -> Request:
    return post(store.upload(key, bucket="assumed"), FILE)


def sent(store: Store, key: str) -> Request:
    return put(store.put(key, len(FILE), bucket="assumed"), FILE)


def test_a_link_of_a_session_brings_the_right_bytes(store: Store) -> None:
    key = fresh()
    store.store(key, SECRET)
    assert send(link(store, key)).body == SECRET


@pytest.mark.parametrize("way", [sent, form], ids=["put", "form"])
def test_a_session_lets_a_file_be_stored(
    store: Store, way: Callable[[Store, str], Request]
) -> None:
    key = fresh()
    assert send(way(store, key)).accepted
    assert store.stored(key)["Body"] == FILE


Make = Callable[[Store, str], Request]
Kind = Callable[[Grant], Request]


def session(store: Store) -> dict[str, Any]:
    """Keys and token of another session of the role, as whoever has it would sign with them."""
    role = f"arn:aws:iam::{OWNER}:role/{ROLE}"
    assumed = client(store.storage, "sts").assume_role(RoleArn=role, RoleSessionName="other")
    found = assumed["Credentials"]
    return {
        "access_key": found["AccessKeyId"],
        "secret_key": found["SecretAccessKey"],
        "token": found["SessionToken"],
    }


def link_with(change: Change) -> Make:
    return lambda store, key: get(changed(link(store, key).url, change))


def put_with(change: Change) -> Make:
    def request(store: Store, key: str) -> Request:
        rightful = sent(store, key)
        return Request("PUT", changed(rightful.url, change), rightful.headers, rightful.body)

    return request


def form_with(token: str | None) -> Make:
    def request(store: Store, key: str) -> Request:
        return with_field(store.upload(key, bucket="assumed"), TOKEN.lower(), token)

    return request


def anothers(make: Callable[[str], Make]) -> Make:
    """With the token of another session of the same role, which is a right one elsewhere."""
    return lambda store, key: make(session(store)["token"])(store, key)


def in_query(make: Callable[[Change], Make]) -> Make:
    return anothers(lambda token: make(replaced(TOKEN, quote(token, safe=""))))


def signed(terms: Mapping[str, Any], use: Kind, *, without_token: bool) -> Make:
    """Signed with the keys of a session, and with the token of another or with none."""

    def request(store: Store, key: str) -> Request:
        item = {"key": key} | ({"size": len(FORGED)} if terms["kind"] == "put" else {})
        token = None if without_token else session(store)["token"]
        return use(store.sign(terms, item, **session(store) | {"token": token}))

    return request


def on(what: str, terms: Mapping[str, Any], use: Kind) -> tuple[Misuse, Misuse]:
    return (
        Misuse(f"{what} signed without a token", MINISTACK, signed(terms, use, without_token=True)),
        Misuse(
            f"{what} signed with another token", MINISTACK, signed(terms, use, without_token=False)
        ),
    )


ON_LINKS = (
    Misuse("token of a link removed", MINISTACK, link_with(without(TOKEN))),
    Misuse("token of a link tampered", MINISTACK, link_with(flipped(TOKEN))),
    Misuse("token of a link another's", MINISTACK, in_query(link_with)),
    *on("link", DOWNLOAD, lambda grant: get(grant.url)),
)
ON_FILES = (
    Misuse("token of a PUT removed", MINISTACK, put_with(without(TOKEN))),
    Misuse("token of a PUT tampered", MINISTACK, put_with(flipped(TOKEN))),
    Misuse("token of a PUT another's", MINISTACK, in_query(put_with)),
    *on("PUT", PUT, lambda grant: put(grant, FORGED)),
    Misuse("token of a form removed", MINISTACK, form_with(None)),
    Misuse("token of a form changed", MINISTACK, form_with("made up")),
    Misuse("token of a form another's", MINISTACK, anothers(form_with)),
    *on("form", UPLOAD, lambda grant: post(grant, FORGED)),
)


@each(ON_LINKS)
def test_a_link_of_a_session_gives_nothing_to_another(store: Store, misuse: Misuse) -> None:
    key = fresh()
    store.store(key, SECRET)
    prove(store, misuse, key, link(store, key))


@each(ON_FILES)
def test_what_a_session_lets_store_stores_nothing_for_another(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, sent(store, key))
