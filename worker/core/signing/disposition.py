import unicodedata
from urllib.parse import quote

MAX_FILENAME_LENGTH = 255  # characters
_ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187 section 3.2.1, beside a-z, A-Z and 0-9
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_valid_filename(name: str) -> bool:
    """Tell whether a name is a plain filename: no path, no hidden characters, not too long."""
    return (
        0 < len(name) <= MAX_FILENAME_LENGTH
        and name == name.strip()
        and name not in {".", ".."}
        and not set(name) & set('/\\"')
        and not {unicodedata.category(character) for character in name} & _HIDDEN
    )


def content_disposition(filename: str | None, *, inline: bool = False) -> str:
    """Return a Content-Disposition for any filename (RFC 6266, RFC 8187).

    A browser saves the object, or shows it if inline.
    """
    kind = "inline" if inline else "attachment"
    if filename is None:
        return kind
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    if plain == filename:
        return f'{kind}; filename="{filename}"'
    encoded = quote(filename, safe=_ATTR_CHAR)
    return f"{kind}; filename=\"{plain or 'download'}\"; filename*=UTF-8''{encoded}"
