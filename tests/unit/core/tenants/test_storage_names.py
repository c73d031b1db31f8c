from worker.core.tenants.config import Bucket
from worker.core.tenants.storage_names import storage_name


def _name(endpoint: str | None) -> str:
    return storage_name(Bucket("uploads", "acme", "eu-central-1", endpoint=endpoint))


def test_a_bucket_of_aws_has_its_own_name() -> None:
    assert _name(None) == _name("https://s3.eu-central-1.amazonaws.com") == "acme"


def test_buckets_of_one_name_on_two_servers_have_two_names() -> None:
    assert _name("http://one.test:9000") == "one.test:9000/acme"
    assert _name("http://two.test:9000") == "two.test:9000/acme"


def test_the_spelling_of_an_endpoint_changes_no_name() -> None:
    assert _name("HTTPS://Store.Test:443/") == _name("https://store.test") == "store.test/acme"


def test_the_same_name_on_aws_and_elsewhere_is_two_buckets() -> None:
    assert _name("https://store.test") != _name(None)
