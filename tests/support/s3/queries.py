"""Changes to the query of a signed URL. Parameters are never decoded."""

from collections.abc import Callable

QueryChange = Callable[[list[str]], list[str]]


def change_query(url: str, change: QueryChange) -> str:
    path, _, query = url.partition("?")
    return f"{path}?{'&'.join(change(query.split('&')))}"


def remove_parameters(*names: str) -> QueryChange:
    return lambda query: [
        parameter for parameter in query if parameter.partition("=")[0] not in names
    ]


def replace_parameter(name: str, value: str) -> QueryChange:
    return lambda query: [*remove_parameters(name)(query), f"{name}={value}"]


def append_parameters(*parameters: str) -> QueryChange:
    return lambda query: [*query, *parameters]


def prepend_parameters(*parameters: str) -> QueryChange:
    return lambda query: [*parameters, *query]


def tamper_parameter(name: str) -> QueryChange:
    """Change the last character of a parameter's value."""

    def change(query: list[str]) -> list[str]:
        (parameter,) = [parameter for parameter in query if parameter.startswith(f"{name}=")]
        last = "0" if parameter[-1] != "0" else "1"
        return replace_parameter(name, parameter.partition("=")[2][:-1] + last)(query)

    return change
