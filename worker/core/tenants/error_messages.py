"""Messages for pydantic's own validation errors, in the terms of TOML."""

from pydantic_core import ErrorDetails

from worker.core.tenants.field_units import describe_number

_MESSAGES = {
    "bool_type": "this must be true or false, without quotes",
    "dict_type": "this must be a table",
    "extra_forbidden": "no such field",
    "greater_than_equal": "this must be at least {ge}",
    "int_type": "this must be a whole number, without quotes",
    "less_than_equal": "this must be at most {le}",
    "literal_error": "this must be {expected}",
    "missing": "this field is required",
    "model_attributes_type": "this must be a table",
    "model_type": "this must be a table",
    "string_too_long": "this is too long: the maximum is {max_length:,} characters",
    "string_too_short": "this is too short: the minimum length is {min_length:,}",
    "string_type": 'this must be a string in quotes, like "text"',
    "tuple_type": 'this must be an array in brackets, like ["a", "b"]',
}


def error_message(error: ErrorDetails) -> str:
    """Return the message of a validation error, without the input that was refused."""
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    context = error.get("ctx", {})
    bounds = {
        name: describe_number(error["loc"], context[name])
        for name in ("ge", "le")
        if name in context
    }
    # pydantic quotes the permitted values in Python's way: 'virtual' or 'path'.
    return template.format_map(context | bounds).replace("'", '"')
