"""Changes to signed URLs and forms that storage has to notice. Pure; nothing is decoded."""

from collections.abc import Iterable

FormFields = Iterable[tuple[str, str | bytes]]


def without_parameters(url: str, *names: str) -> str:
    """Remove parameters of the query by name; a name that ends in `*` is a prefix."""
    path, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and not _is_named(pair, names)]
    return f"{path}?{'&'.join(kept)}" if kept else path


def with_parameter(url: str, name: str, value: str) -> str:
    """Replace or append a parameter of the query."""
    rest = without_parameters(url, name)
    return f"{rest}{'&' if '?' in rest else '?'}{name}={value}"


def with_changed_signature(url: str) -> str:
    """Change the last character of the signature of a URL."""
    _, _, signature = url.partition("X-Amz-Signature=")
    signature = signature.partition("&")[0]
    return with_parameter(url, "X-Amz-Signature", change_last(signature))


def change_last(text: str) -> str:
    """Replace the last character of a text by another digit."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def with_field(form: FormFields, name: str, value: str) -> list[tuple[str, str | bytes]]:
    """Replace a field of a form, or add it before the file."""
    fields = [(field, old) for field, old in form if field.lower() != name.lower()]
    return [*fields[:-1], (name, value), fields[-1]]


def _is_named(pair: str, names: Iterable[str]) -> bool:
    name = pair.partition("=")[0]
    return any(
        name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted for wanted in names
    )
