from tests.acceptance.conftest import SECRET, Service
from tests.support.servers.waiting import wait_until
from valetkey.webhooks import verify


def test_an_outcome_is_sent_by_webhook_after_the_commit(service: Service) -> None:
    with service.client() as client:
        grant = client.download("demo", "acme/a.txt", callback="hook").result()
    receiver, grant_id = service.receiver, grant.id.encode()
    wait_until(
        lambda: [body for body in receiver.bodies if grant_id in body],
        what="the webhook has arrived",
    )
    number = next(n for n, body in enumerate(receiver.bodies) if grant_id in body)
    outcome = verify(receiver.bodies[number], receiver.headers[number], SECRET)
    assert outcome["items"][0]["url"] == grant.url
