"""Checks text that people read, such as a product's name: is any of it visible, and would it spoil the text around it?

Unicode's general categories decide both, not a list of examples. Two short tables add what the categories do not know:
letters and symbols that are drawn as nothing, and code points that this Python's Unicode does not have yet although a
client's may. Pure.

Welcome: every script, combining marks, emoji with their joiners, selectors, keycaps, flags and tags, the joiners of
Indic and Arabic text, the marks of right-to-left text (U+200E, U+200F, U+061C), and isolates and embeddings that end
where they begin.
"""

import unicodedata

# The general categories that put something on the page by themselves: letters, numbers, punctuation and symbols.
# A combining mark (M) needs one of these before it. Nobody can tell what a private-use character (Co) looks like.
_DRAWN = frozenset("LNPS")

# Of those categories, but drawn as nothing: the Hangul fillers (the only such characters that Unicode calls
# Default_Ignorable), the Braille pattern without dots, the note without a head, the object replacement character, and
# the two blanks of Egyptian hieroglyphs.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\U0001d159\ufffc\U00013441\U00013442")

# Unicode keeps these for pictographs (Extended_Pictographic) and for ideographs. Python 3.11 has Unicode 14, so the
# emoji and the ideographs of later years are unassigned to it, and visible to clients that have them.
_RESERVED_FOR_DRAWN = (
    range(0x1F000, 0x1FB00),
    range(0x1FC00, 0x1FFFE),
    range(0x20000, 0x2FFFE),
    range(0x30000, 0x3FFFE),
)

# Controls, halves of surrogate pairs, and the ends of lines and paragraphs: they break logs, terminals and tables.
_SPOILING = frozenset({"Cc", "Cs", "Zl", "Zp"})

# The characters that begin a direction, and those that end it (UAX #9). Overrides are not here: they never pass.
_EMBEDDING, _ISOLATE = "\u202c", "\u2069"
_ENDS = {"\u202a": _EMBEDDING, "\u202b": _EMBEDDING, "\u2066": _ISOLATE, "\u2067": _ISOLATE, "\u2068": _ISOLATE}
_OVERRIDES = frozenset("\u202d\u202e")


def is_visible(character: str) -> bool:
    """Whether the character puts something on the page by itself."""
    category = unicodedata.category(character)
    if category == "Cn":
        return any(ord(character) in reserved for reserved in _RESERVED_FOR_DRAWN)
    return category[0] in _DRAWN and character not in _BLANK


def has_visible(text: str) -> bool:
    """Whether a person sees anything of the text."""
    return any(map(is_visible, text))


def breaks_text(text: str) -> bool:
    """Whether text with this in it breaks or reads as something else.

    - controls, line and paragraph separators, and lone surrogates: a name is one line
    - noncharacters (U+FFFE and its like): Unicode says that they are never interchanged
    - overrides (U+202D, U+202E): they show `exe.gpj` as `jpg.exe`; no language needs them
    - a direction that begins and does not end, or the other way round: it turns the text that follows
    """
    return any(map(_is_spoiling, text)) or not _directions_end(text)


def with_escapes(text: str) -> str:
    r"""The text with `\uXXXX`, as JSON writes it, for invisible characters, so that an answer can show them."""
    return "".join(it if it == " " or is_visible(it) else _escaped(it) for it in text)


def _is_spoiling(character: str) -> bool:
    return unicodedata.category(character) in _SPOILING or character in _OVERRIDES or _is_noncharacter(ord(character))


def _is_noncharacter(code_point: int) -> bool:
    """Unicode, section 23.7: the last two of every plane, and 32 more."""
    return code_point & 0xFFFE == 0xFFFE or 0xFDD0 <= code_point <= 0xFDEF


def _directions_end(text: str) -> bool:
    expected: list[str] = []
    for character in text:
        if character in _ENDS:
            expected.append(_ENDS[character])
        elif character in (_EMBEDDING, _ISOLATE) and (not expected or expected.pop() != character):
            return False
    return not expected


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
