from tests.acceptance.conftest import SECRET, Service
from tests.support.servers.waiting import wait_until
from valetkey.webhooks import verify


def test_an_answer_is_pushed_once_committed(service: Service) -> None:
    with service.client() as client:
        grant = client.download("demo", "acme/a.txt", callback="hook").result()
    got, mine = service.receiver, grant.id.encode()
    wait_until(lambda: [body for body in got.bodies if mine in body], what="the webhook came")
    number = next(n for n, body in enumerate(got.bodies) if mine in body)
    told = verify(got.bodies[number], got.headers[number], SECRET)
    assert told["items"][0]["url"] == grant.url
