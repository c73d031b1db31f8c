"""Decides which new messages go out together, and tracks those bundles. Pure.

A message is sent in a bundle at most once. If that brings no reply to it, it is sent alone: a
message that the service fails on delays the others once, and never again.
"""

from collections.abc import Container, Sequence

from valetkey.wire.bundles import MAX_BUNDLE_MESSAGES
from valetkey.wire.pending import PendingMessage, build_bundle

_MIN_LIMIT = 32  # messages; halves of so few cost more than several workers gain


class Outbox:
    """The new messages that are read and not sent yet: small ones, and at most one other."""

    def __init__(self) -> None:
        self._small: list[PendingMessage] = []
        self._last: PendingMessage | None = None
        self._limit = _MIN_LIMIT

    def start(self, unanswered: int) -> None:
        """Begin to read, with this number of messages to be answered.

        If they are many, at most half of them go out together, so that several workers share them.
        """
        self._limit = min(max(unanswered // 2, _MIN_LIMIT), MAX_BUNDLE_MESSAGES)

    @property
    def has_room(self) -> bool:
        """True if another message may go out with those that are here."""
        return self._last is None and len(self._small) < self._limit

    def add(self, message: PendingMessage, *, is_alone: bool) -> None:
        """Add a message that was read."""
        if is_alone or not message.may_be_bundled:
            self._last = message
        else:
            self._small.append(message)

    def take(self, unanswered: Container[str]) -> list[PendingMessage]:
        """Take the messages that go out next, without those that were given up."""
        messages = [message for message in self._small if message.task_id in unanswered]
        self._small = []
        if not messages and self._last is not None:
            last, self._last = self._last, None
            return [last] if last.task_id in unanswered else []
        return messages


class Bundles:
    """The bundles that were sent, each until all of its messages are answered or given up."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, None]] = {}  # task ids of messages, by that of a bundle
        self._bundle_ids: dict[str, str] = {}
        self._separated: set[str] = set()

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._members

    def has_message(self, task_id: str) -> bool:
        """Return true for a message that was sent in a bundle."""
        return task_id in self._bundle_ids

    def form(self, messages: Sequence[PendingMessage]) -> PendingMessage:
        """Return a new bundle of these messages."""
        bundle = build_bundle(messages)
        task_ids = [message.task_id for message in messages]
        self._members[bundle.task_id] = dict.fromkeys(task_ids)
        self._bundle_ids |= dict.fromkeys(task_ids, bundle.task_id)
        return bundle

    def unanswered(self, bundle_id: str) -> list[str]:
        """Return the task ids of a bundle's messages without a reply."""
        return list(self._members.get(bundle_id, ()))

    def separate(self, bundle_id: str) -> list[str]:
        """Return the task ids of the messages that are sent alone from now on: once each."""
        if bundle_id in self._separated or bundle_id not in self._members:
            return []
        self._separated.add(bundle_id)
        return self.unanswered(bundle_id)

    def remove(self, task_id: str) -> str | None:
        """Remove a message; return the task id of its bundle if that was the last one in it."""
        bundle_id = self._bundle_ids.pop(task_id, None)
        if bundle_id is None:
            return None
        del self._members[bundle_id][task_id]
        if self._members[bundle_id]:
            return None
        del self._members[bundle_id]
        self._separated.discard(bundle_id)
        return bundle_id
