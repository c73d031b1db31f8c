"""The cost of signed requests and sealed results, compared with unsigned messages."""

from bench import batches, service
from bench.comparison import alternate, compare, inverse
from bench.metrics import Measurements
from bench.singles import single_link

ROUNDS = 9


def measure() -> Measurements:
    """Measure both databases."""
    return service.measure_on_both(_measure)


def _measure(database_url: str | None) -> Measurements:
    """Measure a batch of 10,000 links and a single link, alternating signed and unsigned."""
    with (
        service.running_service(database_url) as stack,
        service.signing_client(stack) as signed,
        service.unsigned_client(stack) as unsigned,
    ):
        for client in (signed, unsigned):
            batches.request_batch(client)  # warm up connections, credentials and imports
        service.analyze_tables(stack)
        batch_rounds = alternate(
            lambda: batches.request_batch(signed).last,
            lambda: batches.request_batch(unsigned).last,
            ROUNDS,
        )
        link_rounds = alternate(
            lambda: single_link.latency(single_link.link_sender(signed)),
            lambda: single_link.latency(single_link.link_sender(unsigned)),
            ROUNDS,
        )
    return {
        "identity_overhead_batch": compare(batch_rounds).ratio.map(inverse),
        "identity_overhead_single": compare(link_rounds).ratio.map(inverse),
    }
