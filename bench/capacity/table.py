"""The capacity as text: what larger loads need of each part, in 80 columns."""

from collections.abc import Iterator, Mapping

from bench.capacity.costs import CHUNK_ITEMS, DATABASES, Costs
from bench.capacity.model import FACTORS, TODAY, Need, broken, needs, per_core, workers_for

_TITLES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
_KIND_TITLES = {"single": "single links", "company": "of one AsyncClient", "chunk": "in batches"}
RATES = (100, 2_000, 20_000)
"""Links a second, for which the text says how many processes issue them."""


def capacity_text(measurements: Mapping[str, float | None]) -> str:
    """Return the needs of larger loads, for the costs that `capacity` measured."""
    links, hours = f"{TODAY.batch_links_a_day:,.0f}", f"{TODAY.batch_hours:g}"
    lines = [
        f"Today's load: {links} links a day in batches, within {hours} hours,",
        f"and {TODAY.singles_a_second:g} single links a second, in separate messages.",
    ]
    for database in DATABASES:
        lines += ["", *_lines(Costs.from_measurements(measurements, database))]
    return "\n".join(lines)


def _lines(costs: Costs) -> Iterator[str]:
    columns = [needs(TODAY.times(factor), costs) for factor in FACTORS]
    heads = "".join(f"{f'{factor:,}x':>10}" for factor in FACTORS)
    yield f"{_TITLES[costs.database]:<22}{heads}{'there is':>12}"
    for row in zip(*columns, strict=True):
        amounts = "".join(f"{_number(need.amount):>10}" for need in row)
        yield f"{row[0].part:<22}{amounts}{_number(row[0].available):>12}".rstrip()
    for factor, column in zip(FACTORS, columns, strict=True):
        yield f"{f'{factor:,}x':>6}: {_break_text(broken(column))}"
    rates = {kind: per_core(cost, _items(kind)) for kind, cost in costs.kinds.items()}
    chunk, single, company = (f"{rates[kind]:,.0f}" for kind in ("chunk", "single", "company"))
    yield f"Grants a second for each core: {chunk} in batches, {single} single ones,"
    yield f"{company} single ones of one AsyncClient."
    heads = "".join(f"{f'{rate:,} links/s':>16}" for rate in RATES)
    yield f"{'Processes, runs, for':<22}{heads}"
    for kind, title in _KIND_TITLES.items():
        cells = "".join(f"{_workers(costs, kind, rate):>16}" for rate in RATES)
        yield f"{f'  {title}':<22}{cells}"


def _workers(costs: Costs, kind: str, rate: int) -> str:
    is_sqlite = costs.database == "sqlite"
    found = workers_for(rate, costs.kinds[kind], _items(kind), one_writer=is_sqlite)
    return "PostgreSQL" if found is None else f"{found.processes}, {found.runs}"


def _items(kind: str) -> int:
    return CHUNK_ITEMS if kind == "chunk" else 1


def _break_text(found: list[Need]) -> str:
    if not found:
        return "nothing breaks"
    return "\n        ".join(f"{need.part}: {need.remedy}" for need in found)


def _number(value: float) -> str:
    if value == float("inf"):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"  # noqa: PLR2004 - digits
