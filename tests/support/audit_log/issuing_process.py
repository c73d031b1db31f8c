"""A process that issues grants for one tenant until it is killed."""

import os
import sys
from contextlib import suppress
from random import Random

from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, split_chunks
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.errors import Transient


def main(url: str, seed: str) -> None:
    """Issue batches of one to three chunks, and cancel some."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    service = services.build_service(create_database_engine(url), S3Clients(), Clock())
    rng = Random(seed)
    while True:
        message = grant_message([f"acme/{n}.pdf" for n in range(rng.randint(1, 6))])
        cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
        requests = split_chunks(message, 2)
        if rng.random() < 0.2:
            requests.append(cancel | {"batch": message["batch"]})
        for request in requests:
            with suppress(Transient):  # the database was locked for too long
                service.issue(request)


if __name__ == "__main__":
    main(*sys.argv[1:])
