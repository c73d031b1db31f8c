import unicodedata
from urllib.parse import quote

LONGEST_FILENAME = 255  # characters
_ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187 section 3.2.1, beside letters and digits
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def valid_filename(name: str) -> bool:
    """Tell whether a name is one file's name: no path, nothing hidden, of a bearable length."""
    return (
        0 < len(name) <= LONGEST_FILENAME
        and name == name.strip()
        and not set(name) & set('/\\"')
        and not {unicodedata.category(character) for character in name} & _HIDDEN
    )


def attachment(filename: str | None) -> str:
    """Write a Content-Disposition that saves and never shows, for any name (RFC 6266, RFC 8187)."""
    if filename is None:
        return "attachment"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    if plain == filename:
        return f'attachment; filename="{filename}"'
    encoded = quote(filename, safe=_ATTR_CHAR)
    return f"attachment; filename=\"{plain or 'download'}\"; filename*=UTF-8''{encoded}"
