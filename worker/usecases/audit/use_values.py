"""The state, the uses and the settlement of a grant, as `audit show --json` prints them."""

from datetime import datetime

from worker.core.uses.states import grant_state
from worker.db.audit.stories.uses import UseStory
from worker.usecases.audit.story_types import UseValues


def use_values(story: UseStory, now: datetime) -> UseValues:
    """Return the state, the uses and the settlement as JSON values, with times as datetimes."""
    settlement = story.settlement
    return {
        "state": None if story.facts is None else grant_state(story.facts, now),
        "uses": [dict(row._mapping) for row in story.uses],  # noqa: SLF001 - public API
        "number_of_uses": story.number,
        "settlement": None if settlement is None else dict(settlement._mapping),  # noqa: SLF001
    }
