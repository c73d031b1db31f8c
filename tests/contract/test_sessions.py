"""Grants signed by role sessions. SeaweedFS needs a config file for roles and is not tested."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import boto3
import pytest

from tests.contract.test_upload import FILE, FORGED
from tests.contract.test_upload_options import change_field
from tests.support.s3.http_requests import Request, get, post, put, send
from tests.support.s3.misuses import MINISTACK, SECRET, Misuse, check_misuse, parametrize_misuses
from tests.support.s3.queries import (
    QueryChange,
    change_query,
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import DOWNLOAD, OWNER, PUT, ROLE, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant
from worker.devstack.storage import Storage

ALLOW_ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
TRUST_STATEMENT = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
TOKEN = "X-Amz-Security-Token"


def aws_client(storage: Storage, service: str) -> Any:
    return boto3.client(
        service,
        region_name=storage.region,
        endpoint_url=storage.endpoint,
        aws_access_key_id=storage.access_key,
        aws_secret_access_key=storage.secret_key,
    )


def policy_document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def create_role_once(ministack: Storage) -> None:
    """Create the role of the bucket profile "assumed", unless another module has done so."""
    iam = aws_client(ministack, "iam")
    if ROLE not in {role["RoleName"] for role in iam.list_roles()["Roles"]}:
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=policy_document(TRUST_STATEMENT))
        policy = policy_document(ALLOW_ALL)
        iam.put_role_policy(RoleName=ROLE, PolicyName="s3", PolicyDocument=policy)


@pytest.fixture(scope="module", autouse=True)
def _role(ministack: Storage) -> None:
    create_role_once(ministack)


@pytest.fixture(params=MINISTACK)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Iterator[Store]:
    """The server with roles; the bucket profile "assumed" names one of them."""
    store = stores[request.param]
    yield store
    store.delete_objects()


def link_request(store: Store, key: str) -> Request:
    return get(store.download(key, bucket="assumed").url)


def form_request(store: Store, key: str) -> Request:
    return post(store.upload(key, bucket="assumed"), FILE)


def put_request(store: Store, key: str) -> Request:
    return put(store.put(key, len(FILE), bucket="assumed"), FILE)


def test_a_link_of_a_session_brings_the_right_bytes(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    assert send(link_request(store, key)).body == SECRET


@pytest.mark.parametrize("make_request", [put_request, form_request], ids=["put", "form"])
def test_a_session_lets_a_file_be_stored(
    store: Store, make_request: Callable[[Store, str], Request]
) -> None:
    key = new_key()
    assert send(make_request(store, key)).is_success
    assert store.get_object(key)["Body"] == FILE


MakeRequest = Callable[[Store, str], Request]
UseGrant = Callable[[Grant], Request]


def session_credentials(store: Store) -> dict[str, Any]:
    """Return keys and token of another session of the role."""
    role = f"arn:aws:iam::{OWNER}:role/{ROLE}"
    role_session = aws_client(store.storage, "sts").assume_role(
        RoleArn=role, RoleSessionName="other"
    )
    credentials = role_session["Credentials"]
    return {
        "access_key": credentials["AccessKeyId"],
        "secret_key": credentials["SecretAccessKey"],
        "token": credentials["SessionToken"],
    }


def link_with_query_change(change: QueryChange) -> MakeRequest:
    return lambda store, key: get(change_query(link_request(store, key).url, change))


def put_with_query_change(change: QueryChange) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        original = put_request(store, key)
        return Request("PUT", change_query(original.url, change), original.headers, original.body)

    return request


def form_with_token(token: str | None) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        return change_field(store.upload(key, bucket="assumed"), TOKEN.lower(), token)

    return request


def with_other_session_token(make: Callable[[str], MakeRequest]) -> MakeRequest:
    """Return requests with the valid token of another session of the role."""
    return lambda store, key: make(session_credentials(store)["token"])(store, key)


def with_other_token_in_query(make: Callable[[QueryChange], MakeRequest]) -> MakeRequest:
    return with_other_session_token(
        lambda token: make(replace_parameter(TOKEN, quote(token, safe="")))
    )


def signed_with_session(
    terms: Mapping[str, Any], use_grant: UseGrant, *, without_token: bool
) -> MakeRequest:
    """Return requests signed with a session's keys, and with another session's token or none."""

    def request(store: Store, key: str) -> Request:
        item = {"key": key} | ({"size": len(FORGED)} if terms["kind"] == "put" else {})
        token = None if without_token else session_credentials(store)["token"]
        return use_grant(store.sign(terms, item, **session_credentials(store) | {"token": token}))

    return request


def token_misuses(
    label: str, terms: Mapping[str, Any], use_grant: UseGrant
) -> tuple[Misuse, Misuse]:
    return (
        Misuse(
            f"{label} signed without a token",
            MINISTACK,
            signed_with_session(terms, use_grant, without_token=True),
        ),
        Misuse(
            f"{label} signed with another token",
            MINISTACK,
            signed_with_session(terms, use_grant, without_token=False),
        ),
    )


LINK_MISUSES = (
    Misuse("token of a link removed", MINISTACK, link_with_query_change(remove_parameters(TOKEN))),
    Misuse("token of a link tampered", MINISTACK, link_with_query_change(tamper_parameter(TOKEN))),
    Misuse(
        "token of a link another's", MINISTACK, with_other_token_in_query(link_with_query_change)
    ),
    *token_misuses("link", DOWNLOAD, lambda grant: get(grant.url)),
)
FILE_MISUSES = (
    Misuse("token of a PUT removed", MINISTACK, put_with_query_change(remove_parameters(TOKEN))),
    Misuse("token of a PUT tampered", MINISTACK, put_with_query_change(tamper_parameter(TOKEN))),
    Misuse("token of a PUT another's", MINISTACK, with_other_token_in_query(put_with_query_change)),
    *token_misuses("PUT", PUT, lambda grant: put(grant, FORGED)),
    Misuse("token of a form removed", MINISTACK, form_with_token(None)),
    Misuse("token of a form changed", MINISTACK, form_with_token("made up")),
    Misuse("token of a form another's", MINISTACK, with_other_session_token(form_with_token)),
    *token_misuses("form", UPLOAD, lambda grant: post(grant, FORGED)),
)


@parametrize_misuses(LINK_MISUSES)
def test_a_link_of_a_session_gives_nothing_to_another(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, link_request(store, key))


@parametrize_misuses(FILE_MISUSES)
def test_what_a_session_lets_store_stores_nothing_for_another(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put_request(store, key))
