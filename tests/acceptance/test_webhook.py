from tests.acceptance.conftest import SECRET, Service
from tests.waiting import wait_until
from valetkey.webhooks import verify


def test_an_answer_is_pushed_once_committed(service: Service) -> None:
    before = len(service.receiver.bodies)
    with service.client() as client:
        grant = client.download("demo", "acme/a.txt", callback="hook").result()
    wait_until(lambda: len(service.receiver.bodies) > before, what="the webhook came")
    told = verify(service.receiver.bodies[-1], service.receiver.headers[-1], SECRET)
    assert told["items"][0]["url"] == grant.url
