"""Text for terminals and logs: names of VMs, jobs and files are written by others, and may hold anything.

Owns: which characters are written out as escapes, and how sizes are written. Does not own: quoting, columns, colours.
"""


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with every character that is not printable, the space aside, as an escape such as `\x1b`.

    Those are the controls (ESC and the C1 range steer a terminal, a newline forges a line of the log), the invisible
    format characters, which reorder what is read, and lone surrogates, which cannot be encoded. `keep` are let through.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escape(one) for one in text)


def size(size_bytes: int) -> str:
    """A size for people, in the units storage is measured in: 1536 is `1.5 KiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
