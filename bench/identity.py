"""What signed requests and sealed answers cost, against requests that the queue vouches for."""

from bench import batches, service, single
from bench.comparing import compared, in_turns
from bench.figures import Measured

ROUNDS = 7


def measure() -> Measured:
    """Ten thousand links in a batch, and one link, each in turns with and without."""
    with service.running() as up, service.client(up) as signed, service.unsigned(up) as plain:
        for client in (signed, plain):
            batches.ask(client)  # connections, credentials and imports, on both sides
        many = in_turns(lambda: batches.ask(signed).last, lambda: batches.ask(plain).last, ROUNDS)
        one = in_turns(
            lambda: single.latency(single.asking(signed)),
            lambda: single.latency(single.asking(plain)),
            ROUNDS,
        )
    return {
        "identity_overhead_batch": 1 / compared(many).ratio,
        "identity_overhead_single": 1 / compared(one).ratio,
    }
