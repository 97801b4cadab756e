"""Decodes JSON bodies in one pass if they are right, and names all their faults if they are not.

msgspec decodes and checks at once, which is all that a good body costs. It stops at the first fault, and accepts a
member that comes twice. So the colons of a body are counted, one for each member that was decoded, those of an object
within included. A body that msgspec refuses, or that has more colons than members, is parsed again, slowly.

A member that no field reads is refused: the client meant something by it, and would never learn that it was ignored.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints
from urllib.parse import quote

import msgspec
from msgspec import UnsetType, inspect

from web.problems.problems import FieldError, Problem, below, invalid, invalid_values
from web.requests.readable_text import with_escapes
from web.requests.strict_json import MAX_SHOWN, NOT_JSON, check_strictly, not_json, shown

S = TypeVar("S", bound=msgspec.Struct)

# Unknown members that are named, each at its pointer. A body of the largest size has thousands, and naming all of them
# would make the answer twenty times as large as the request.
_MAX_UNKNOWN_NAMED = 20
# Errors in the elements of a list after which the others are not looked at. Many faulty lists come in one bulk request.
_MAX_ERRORS_IN_ELEMENTS = 10
# The longest name that a pointer spells out. For a longer one, the pointer is that of the object that holds it.
_MAX_POINTED = 200

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])


class WrongElements(ValueError):
    """Some elements of a list are not allowed. `errors`: of each, with its pointer within the list."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(f"{len(errors)} elements")
        self.errors = errors


class Rule(NamedTuple):
    """A rule for a field that its type cannot express."""

    expected: str
    """What the field must be, in words for the client."""
    check: Callable[[Any], object]
    """Raises ValueError for a value that is not allowed; WrongElements to say which elements of a list are not."""
    is_private: bool = False
    """Whether the value is the client's own: then no problem repeats it."""
    elements: "JsonBody[Any] | None" = None
    """Of a list: decodes one of its elements, all of whose members are required."""


class Instead(NamedTuple, Generic[S]):
    """Another kind of body that comes in the same place."""

    member: str
    """A body that has it is of that kind."""
    body: "JsonBody[S]"


class JsonBody(Generic[S]):
    """Decodes one kind of body: a Struct, from whose types and Meta its OpenAPI schema is made as well."""

    def __init__(self, kind: type[S], instead: Instead[S] | None = None, /, **rules: Rule) -> None:
        """`kind` forbids unknown fields. `rules`: by the name of the field; every field that is not an integer has one.

        They explain what was refused. The caller of `decode` applies them, and raises `refusal` for what they forbid.
        `instead` costs a body of `kind` nothing.
        """
        self._decoder = msgspec.json.Decoder(kind)
        assert kind.__struct_config__.forbid_unknown_fields, f"{kind.__name__} would drop members silently"
        self._instead = instead
        self._fields = list(_fields_of(kind, rules))
        self.required = sum(field.required for field in self._fields)
        """How many members a body has at the least."""
        self._private = [it.name for it in self._fields if it.rule.is_private]
        self._optional = [(it.name, it.default) for it in msgspec.structs.fields(kind) if not it.required]
        self._lists = [(name, it.elements.required) for name, it in rules.items() if it.elements is not None]

    def decode(self, body: bytes) -> S:
        """Decode a body. Raises Problem: 400 if it is not JSON or has a member twice, 422 with all faulty fields."""
        try:
            content = self._decoder.decode(body)
        except NOT_JSON:
            if self._instead is not None and _has_member(body, self._instead.member):
                return self._instead.body.decode(body)
            raise self.refusal(body) from None
        # Each required member is there, with a colon of its own. If there is no other colon, there is no other member.
        colons = body.count(b":")
        if colons != self.required and not self._has_each_once(content, body, colons):
            self._check_strictly(body)
        return content

    def _has_each_once(self, content: S, body: bytes, colons: int) -> bool:
        """Whether the body, which was decoded as `content`, has each of its members once, those of objects included.

        A reader that keeps the last of two equal names finds fewer members than the body has colons outside of strings.
        """
        found, within = self.required, 0
        for name, default in self._optional:
            value = getattr(content, name)
            found += value is not default
            within += len(value) if type(value) is dict else 0
        for name, members in self._lists:
            within += members * len(getattr(content, name))
        found += within
        if colons == found or (outside := _colons_outside_of_strings(body)) == found:
            return True
        # It may say what leaving a member out would say as well.
        return outside == within + len(_members.decode(body))

    def _check_strictly(self, body: bytes) -> None:
        """As check_strictly. Does not name a member within a private one."""
        with suppress(*NOT_JSON):
            members = _members.decode(body)
            for name in self._private:
                check_strictly(bytes(members.get(name, b"0")), may_name=False)
        check_strictly(body)

    def refusal(self, body: bytes) -> Problem:
        """The problem with everything that is wrong in a refused body."""
        try:
            self._check_strictly(body)
            members = _members.decode(body)
        except Problem as problem:
            return problem
        except msgspec.ValidationError:
            return invalid("", "The body must be a JSON object.")
        except NOT_JSON as fault:
            return not_json(fault)
        errors = self._errors_in(members)
        assert errors, "refused, and nothing is wrong with it"
        return invalid_values(errors)

    def errors_in_element(self, raw: msgspec.Raw) -> list[FieldError]:
        """What is wrong in an element of a list, if anything, with pointers within it."""
        try:
            members = _members.decode(raw)
        except msgspec.ValidationError:
            return [FieldError("An element of this list must be a JSON object.", pointer="#")]
        return self._errors_in(members)

    def _errors_in(self, members: dict[str, msgspec.Raw]) -> list[FieldError]:
        errors = [error for field in self._fields for error in field.errors_in(members)]
        return errors + unknown_members(members, [field.name for field in self._fields])


def _has_member(body: bytes, name: str) -> bool:
    try:
        return name in _members.decode(body)
    except NOT_JSON:
        return False


def _colons_outside_of_strings(body: bytes) -> int:
    """How many members the JSON `body` has, in all its objects."""
    text = body
    if b"\\" in text:  # without escapes, each quotation mark begins or ends a string
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2]).count(b":")


def elements_of(body: bytes, most: int | None = None) -> list[bytes]:
    """The elements of a JSON array, not yet decoded. Raises Problem (400; 422 for no array, or for more than `most`).

    They are counted before they are copied: half a million of them are a megabyte, and 82 of 134 ms (measured) went
    into copies that nobody wanted.
    """
    try:
        elements = _elements.decode(body)
    except msgspec.ValidationError:
        check_strictly(body)
        raise invalid("", "The body must be a JSON array.") from None
    except NOT_JSON as error:
        raise not_json(error) from None
    if most is not None and len(elements) > most:
        raise invalid("", f"The array has {len(elements)} elements. Send {most} at the most.")
    return [bytes(element) for element in elements]


def unknown_members(names: Iterable[str], known: Sequence[str]) -> list[FieldError]:
    """An error for each of `names` that is not `known`, with its pointer. Past a limit, one error counts the rest."""
    unknown = [name for name in names if name not in known]
    takes = f"The members here are {_and(known)}."
    errors = [_unknown_member(name, takes) for name in unknown[:_MAX_UNKNOWN_NAMED]]
    if rest := len(unknown) - len(errors):
        errors.append(FieldError(f"{rest} more unknown members are not named here. {takes}", pointer="#"))
    return errors


def _unknown_member(name: str, takes: str) -> FieldError:
    pointer = f"#/{_pointed(name)}" if len(name) <= _MAX_POINTED else "#"
    return FieldError(f"The member {shown(name)} is unknown. {takes}", pointer=pointer)


def _pointed(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901, section 3) in the fragment of a URI (section 6)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@")


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class _Field(NamedTuple):
    name: str
    """The name as clients write it."""
    required: bool
    decoder: "msgspec.json.Decoder[Any]"
    rule: Rule
    most: int | None
    """Elements that a list may have."""

    def errors_in(self, members: dict[str, msgspec.Raw]) -> Sequence[FieldError]:
        raw = members.get(self.name)
        if raw is None:
            return [self._error("is missing: it")] if self.required else []
        errors = self._errors_in_elements(raw)
        try:
            self.rule.check(self.decoder.decode(raw))
        except WrongElements as wrong:
            errors += [below(error, f"/{self.name}") for error in wrong.errors]
        except ValueError:  # msgspec's errors are ValueErrors
            errors = errors or [self._error("", "" if self.rule.is_private else _not(bytes(raw)))]
        return errors

    def _errors_in_elements(self, raw: msgspec.Raw) -> list[FieldError]:
        """What is wrong in the elements of a list, unless it is no list or has too many."""
        if self.rule.elements is None:
            return []
        try:
            elements = _elements.decode(raw)
        except msgspec.ValidationError:
            return []
        if self.most is None or len(elements) > self.most:
            return []
        errors: list[FieldError] = []
        for place, element in enumerate(elements):
            errors += [below(error, f"/{self.name}/{place}") for error in self.rule.elements.errors_in_element(element)]
            if len(errors) >= _MAX_ERRORS_IN_ELEMENTS and place + 1 < len(elements):
                return [*errors, self._not_read(place + 1)]
        return errors

    def _not_read(self, read: int) -> FieldError:
        detail = f"Only the first {read} elements of {self.name} were checked, because they have that many errors."
        return FieldError(detail, pointer=f"#/{self.name}")

    def _error(self, missing: str, but: str = "") -> FieldError:
        detail = " ".join(filter(None, (self.name, missing, "must be", self.rule.expected)))
        return FieldError(f"{detail}{but}.", pointer=f"#/{self.name}")


def _fields_of(kind: type[msgspec.Struct], rules: dict[str, Rule]) -> Iterator[_Field]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    hints = get_type_hints(kind, include_extras=True)
    for field in info.fields:
        wanted = _without_unset(hints[field.name])
        rule = rules.get(field.name) or _integer_rule(inspect.type_info(wanted))
        yield _Field(field.encode_name, field.required, msgspec.json.Decoder(wanted), rule, _most_in(wanted))


def _without_unset(hint: Any) -> Any:
    if UnsetType not in get_args(hint):
        return hint
    (wanted,) = (it for it in get_args(hint) if it is not UnsetType)
    return wanted


def _most_in(hint: Any) -> int | None:
    kind = _bare(inspect.type_info(hint))
    return kind.max_length if isinstance(kind, inspect.ListType) else None


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _integer_rule(kind: inspect.Type) -> Rule:
    """A rule from an integer's bounds. 1.0 is refused, because not every JSON reader takes it for a whole number."""
    kind = _bare(kind)
    assert isinstance(kind, inspect.IntType), "this field needs a Rule"
    expected = f"a whole number from {kind.ge} to {kind.le}, without a decimal point or an exponent"
    return Rule(expected, lambda _: None)


def _not(raw: bytes) -> str:
    """What was sent instead, if it is short, with escapes so that a reader sees what is wrong."""
    text = with_escapes(raw.strip().decode())
    return f", not {text}" if len(text) <= MAX_SHOWN else ""
