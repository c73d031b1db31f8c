def escape_unprintable(text: str) -> str:
    """Escape every non-printable character, so that foreign text cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
