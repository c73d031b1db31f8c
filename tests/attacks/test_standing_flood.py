"""A hundred thousand messages of a tenant arrive, and stand there: a neighbour's single grants."""

import pytest

from bench.flood import measure_flood
from tests.attacks.conftest import AttackTable

MESSAGES = 100_000
STANDING_SECONDS = 20.0


@pytest.mark.timeout(300)
def test_a_neighbour_waits_three_seconds_at_most_while_a_flood_arrives_and_one_once_it_stands(
    attack_table: AttackTable,
) -> None:
    waits = measure_flood("LPUSH", MESSAGES, STANDING_SECONDS)
    arriving, standing = waits["flood_arriving_most_ms"], waits["flood_standing_most_ms"]
    assert arriving is not None
    assert standing is not None
    is_delayed = arriving > 3_000 or standing > 1_000
    attack_table.add(f"a neighbour's single grants beside {MESSAGES:,} messages", 1, is_delayed)
    attack_table.notes.append(
        f"the slowest single grant: {arriving:,.0f} ms while {MESSAGES:,} messages arrive, "
        f"{standing:,.0f} ms once they stand there"
    )
    assert not is_delayed
