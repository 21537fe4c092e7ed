"""Show text that others wrote, such as an object key: the one place that decides how."""

LIMIT = 1000
"""The most characters that are shown; the key of an object has up to 1,024 bytes."""


def printable(text: str, limit: int | None = LIMIT) -> str:
    r"""Return one line in which every character can be seen, shortened in the middle to `limit` characters.

    Control characters, line breaks, bidirectional overrides, zero-width characters, unusual spaces and lone
    surrogates become escapes such as ``\x1b`` and ``\u202e``. They are what `str.isprintable` refuses: the
    Unicode categories "Other" and "Separator", except the space. `rich` and `click` remove less.
    """
    visible = "".join(letter if letter.isprintable() else _escape(letter) for letter in text)
    if limit is None or len(visible) <= limit:
        return visible
    head, tail = limit // 2, (limit - 1) // 2
    return f"{visible[:head]}…{visible[len(visible) - tail :]}"


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
