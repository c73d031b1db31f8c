"""Checks the arguments of public functions by their annotations, before anything is sent. Pure.

An annotation may be Annotated with rules, and with a str: the words for what it accepts.
"""

from collections.abc import (
    AsyncIterable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime, timedelta
from functools import cache, wraps
from inspect import Parameter, iscoroutinefunction, signature
from itertools import chain
from os import PathLike
from types import FunctionType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

Target = TypeVar("Target", bound=Callable[..., Any])

_INFINITY = float("inf")
_LISTS = (Iterable, AsyncIterable)
_READ_LISTS = (Collection, Sequence)  # reading these does not empty them
_NO_LISTS = (str, bytes, bytearray, Mapping)  # each has elements, which are not those of a list
_ADVICE: Mapping[type, str] = {
    timedelta: "pass its total_seconds() as a number",
    PathLike: "pass its text, like path.as_posix()",
    Coroutine: "await it",
}
"""The advice in an error about a value of a type that is often passed by mistake."""


class Rule:
    """A condition on values of the right type; words say what a value must be."""

    def __init__(self, words: str, is_kept: Callable[[Any], bool]) -> None:
        self.words = words
        self.is_kept = is_kept

    def __repr__(self) -> str:
        return repr(self.words)  # in the signatures that help() shows


NOT_NEGATIVE = Rule("a finite number, and not negative", lambda value: 0 <= value < _INFINITY)
POSITIVE = Rule("a finite number over 0", lambda value: 0 < value < _INFINITY)
TimeLimit = Annotated[float, NOT_NEGATIVE, "a number of seconds"]
Moment = Annotated[
    datetime, Rule("a datetime with a time zone: set its tzinfo", lambda value: bool(value.tzinfo))
]


class Alternative(NamedTuple):
    """One of the types that an annotation accepts.

    contents has the annotations of a list's elements, or of the names and values of a dict.
    """

    types: tuple[type, ...]
    no_types: tuple[type, ...] = ()
    rules: tuple[Rule, ...] = ()
    contents: tuple["Annotation", ...] = ()

    def accepts(self, value: object) -> bool:
        """Return true if the value has one of the types."""
        return isinstance(value, self.types) and not isinstance(value, self.no_types)


class Annotation:
    """The values that an annotation accepts."""

    def __init__(self, hint: Any) -> None:
        self.alternatives = tuple(_alternatives(hint))
        self.words = _words(hint)
        plain = [each for each in self.alternatives if not (each.rules or each.contents)]
        self._plain_types = {each for alternative in plain for each in alternative.types}

    def check(self, name: str, value: object) -> None:
        """Raise TypeError or ValueError, which names the argument, for a value to refuse."""
        if type(value) in self._plain_types:
            return
        alternative = next((each for each in self.alternatives if each.accepts(value)), None)
        if alternative is None:
            raise TypeError(f"{name} must be {self.words}, not {_describe_type(value)}")
        for rule in alternative.rules:
            if not rule.is_kept(value):
                raise ValueError(f"{name} must be {rule.words}")
        if len(alternative.contents) == 1:
            for number, element in enumerate(cast("Iterable[object]", value)):
                alternative.contents[0].check(f"{name}[{number}]", element)
        elif alternative.contents:
            of_name, of_value = alternative.contents
            for key, element in cast("Mapping[object, object]", value).items():
                of_name.check(f"each name in {name}", key)
                of_value.check(f"each value in {name}", element)


def checked(target: Target) -> Target:
    """Return a function, or a class with public methods, whose arguments are checked.

    Raises TypeError for an argument of another type than the annotated one, and ValueError for one
    that a rule of its annotation refuses.
    """
    if not isinstance(target, type):
        return cast("Target", _checked_function(target))
    for name, member in list(vars(target).items()):
        is_checked = hasattr(member, "__wrapped__")
        if isinstance(member, FunctionType) and not (name.startswith("_") or is_checked):
            setattr(target, name, _checked_function(member))
    return target


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    # Not before the first call: most programs call few of the functions.
    parameters = cache(lambda: _Parameters(function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        parameters().check(args, kwargs)
        return function(*args, **kwargs)

    @wraps(function)
    async def await_call(*args: Any, **kwargs: Any) -> Any:
        parameters().check(args, kwargs)
        return await function(*args, **kwargs)

    return await_call if iscoroutinefunction(function) else call


class _Parameters:
    """The parameters of a function, and the annotations of those that have one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function_name = function.__name__
        self._names = list[str]()
        self._required: frozenset[str] = frozenset()
        hints, all_hints = dict[str, Any](), get_type_hints(function, include_extras=True)
        for name, parameter in signature(function).parameters.items():
            hint = all_hints.get(name, Any)
            if parameter.kind is Parameter.VAR_KEYWORD and get_args(hint):
                (options,) = get_args(hint)
                hints |= get_type_hints(options, include_extras=True)
                self._required = options.__required_keys__
            elif name != "self":
                hints[name] = hint
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
                self._names.append(name)
        self._annotations = {name: Annotation(hint) for name, hint in hints.items()}

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        annotations = self._annotations
        for name, value in chain(zip(self._names, args, strict=False), kwargs.items()):
            if name in annotations:
                annotations[name].check(name, value)
        for name in self._required:
            if name not in kwargs:
                raise TypeError(f"{self._function_name} needs the argument {name}")


def _alternatives(hint: Any, rules: tuple[Rule, ...] = ()) -> Iterator[Alternative]:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeVar):
        yield from _alternatives(hint.__bound__)
    elif origin in {Annotated, Required}:
        own_rules = (arg for arg in args[1:] if isinstance(arg, Rule))
        yield from _alternatives(args[0], (*rules, *own_rules))
    elif origin in {Union, UnionType}:
        for arg in args:
            yield from _alternatives(arg, rules)
    elif origin is Literal:  # of these types, the service's rules name the values
        yield Alternative(tuple({type(arg) for arg in args}))
    elif hint is Any:
        yield Alternative((object,))
    elif hint is float or hint is int:
        yield Alternative((int, hint), (bool,), rules)
    elif origin in _LISTS:
        yield Alternative((origin,), _NO_LISTS, rules)
    elif origin in _READ_LISTS:
        yield Alternative((origin,), _NO_LISTS, rules, (Annotation(args[0]),))
    else:
        contents = tuple(map(Annotation, args)) if origin in {dict, Mapping} else ()
        yield Alternative((origin or hint,), (), rules, contents)


def _words(hint: Any) -> str:
    *others, last = _choices(hint)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(hint: Any) -> list[str]:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeVar):
        return _choices(hint.__bound__)
    if origin in {Annotated, Required}:
        return [arg for arg in args[1:] if isinstance(arg, str)] or _choices(args[0])
    if origin in {Union, UnionType}:
        return list(chain.from_iterable(map(_choices, args)))
    if origin is Literal:
        return list(map(repr, args))
    name = "list" if origin in _READ_LISTS else (origin or hint).__name__
    return ["None" if hint is type(None) else _with_article("number" if hint is float else name)]


def _describe_type(value: object) -> str:
    if value is None:
        return "None"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(value, kind)), "")
    return f"{_with_article(type(value).__name__)}{advice and ': '}{advice}"


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"
