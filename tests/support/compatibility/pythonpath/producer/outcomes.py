"""What a call of a producer returns."""

from collections.abc import Coroutine
from typing import Any

from pydantic_core import to_jsonable_python

from valetkey import Refused, ValetkeyError


async def settle(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns as JSON values, or its refusal or error."""
    try:
        return to_jsonable_python(await call)
    except Refused as error:
        return to_jsonable_python(error.refusal)
    except ValetkeyError as error:
        return {"error": type(error).__name__, "text": str(error)}
