"""Checks the items of a batch: at once if they are in memory, otherwise as they are read. Pure."""

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any

from valetkey.arguments import Annotation
from valetkey.wire.chunking import ItemInput
from valetkey.wire.messages import Item
from valetkey.wire.terms import Kind

_FIELDS = {name: Annotation(field.annotation) for name, field in Item.model_fields.items()}
_SIZE = Annotation(int)
_ROW = Annotation(Annotated[Item | Mapping[str, Any], "an Item, or a dict of its fields"])
_KEY = Annotation(
    Annotated[str | Item | Mapping[str, Any], "a str, an Item, or a dict of its fields"]
)


def checked_items(
    kind: Kind, items: Iterable[ItemInput] | AsyncIterable[ItemInput]
) -> Iterable[ItemInput] | AsyncIterable[ItemInput]:
    """Return the items of a batch, each checked before it is sent.

    Raises TypeError, which names the argument, the number and the field of the first wrong item:
    here if the items are in memory, and otherwise while they are read.
    """
    if isinstance(items, Item):  # pydantic lets a model be iterated
        raise TypeError("the items of a batch must be a list or another iterable, not an Item")
    if isinstance(items, AsyncIterable):
        return _read_async(kind, items)
    if not isinstance(items, Collection):
        return _read(kind, items)
    if kind == "put" or set(map(type, items)) != {str}:
        for _ in _read(kind, items):
            pass
    return items


def item_size(item: Any) -> int | None:
    """Return the size of an item or of a dict of its fields, None if it has none."""
    return item.size if isinstance(item, Item) else item.get("size")


def _read(kind: Kind, items: Iterable[ItemInput]) -> Iterator[ItemInput]:
    for number, item in enumerate(items):
        if type(item) is not str or kind == "put":
            _check_item(kind, number, item)
        yield item


async def _read_async(kind: Kind, items: AsyncIterable[ItemInput]) -> AsyncIterator[ItemInput]:
    number = 0
    async for item in items:
        _check_item(kind, number, item)
        yield item
        number += 1


def _check_item(kind: Kind, number: int, item: Any) -> None:
    is_put = kind == "put"
    if type(item) is Item and not (is_put and item.size is None):
        return  # pydantic has checked it
    name = f"items[{number}]" if is_put else f"keys[{number}]"
    (_ROW if is_put else _KEY).check(name, item)
    if isinstance(item, Mapping):
        _check_fields(name, item)
    if is_put:
        _SIZE.check(f"{name}.size", item_size(item))


def _check_fields(name: str, item: Mapping[str, Any]) -> None:
    _FIELDS["key"].check(f"{name}.key", item.get("key"))
    for field, value in item.items():
        if field not in _FIELDS:
            raise TypeError(f"{name} has a field that an Item does not have: {field!r:.80}")
        if value is not None:
            _FIELDS[field].check(f"{name}.{field}", value)
