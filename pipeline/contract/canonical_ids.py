"""The one form of a UUID as text that our messages have."""

# Maps hex digits to x, and x to a byte that no UUID has: a canonical UUID becomes _UUID_SHAPE.
_UUID_SHAPE = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx\n"
_TO_SHAPE = bytes.maketrans(b"x0123456789abcdef", b"\0" + b"x" * 16)


def are_canonical(ids: list[str]) -> bool:
    """Whether all are UUIDs as PostgreSQL writes them. It reads other forms too, and finds them equal; we would not."""
    text = "".join([f"{it}\n" for it in ids]).encode()
    return text.translate(_TO_SHAPE) == _UUID_SHAPE * len(ids)
