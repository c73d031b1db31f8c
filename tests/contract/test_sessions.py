"""Grants signed by role sessions. SeaweedFS needs a config file for roles and is not tested."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.test_upload import FILE, FORGED, with_field
from tests.support.s3.doubles import ALLOW_ALL, TRUST, aws_client, policy_document
from tests.support.s3.http_requests import Request, get, post, put, send
from tests.support.s3.misuses import (
    MINISTACK,
    SECRET,
    MakeRequest,
    Misuse,
    change_request,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import (
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import DOWNLOAD, OWNER, PUT, ROLE, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant
from worker.devstack.storage import Storage

TOKEN = "X-Amz-Security-Token"


def create_role_once(ministack: Storage) -> None:
    """Create the role of the bucket profile "assumed", unless another module has done so."""
    iam = aws_client(ministack, "iam")
    if ROLE not in {role["RoleName"] for role in iam.list_roles()["Roles"]}:
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=policy_document(TRUST))
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


def form_with_token(token: str | None) -> MakeRequest:
    return with_field(TOKEN.lower(), token, bucket="assumed")


def with_other_session_token(make: Callable[[str], MakeRequest]) -> MakeRequest:
    """Return requests with the valid token of another session of the role."""
    return lambda store, key: make(session_credentials(store)["token"])(store, key)


def with_other_token_in_query(make: MakeRequest) -> MakeRequest:
    return with_other_session_token(
        lambda token: change_request(make, replace_parameter(TOKEN, quote(token, safe="")))
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


def token_misuses(label: str, terms: Mapping[str, Any], use_grant: UseGrant) -> Iterator[Misuse]:
    for name, without_token in (("without a token", True), ("with another token", False)):
        request = signed_with_session(terms, use_grant, without_token=without_token)
        yield Misuse(f"{label} signed {name}", MINISTACK, request)


def query_misuses(label: str, make: MakeRequest) -> tuple[Misuse, ...]:
    removed = change_request(make, remove_parameters(TOKEN))
    tampered = change_request(make, tamper_parameter(TOKEN))
    return (
        Misuse(f"token of a {label} removed", MINISTACK, removed),
        Misuse(f"token of a {label} tampered", MINISTACK, tampered),
        Misuse(f"token of a {label} another's", MINISTACK, with_other_token_in_query(make)),
    )


LINK_MISUSES = (
    *query_misuses("link", link_request),
    *token_misuses("link", DOWNLOAD, lambda grant: get(grant.url)),
)
FILE_MISUSES = (
    *query_misuses("PUT", put_request),
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
