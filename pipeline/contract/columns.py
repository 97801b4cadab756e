r"""The columns of a table, declared once: what COPY writes and what SELECT reads derives from the declaration.

A row is a struct or a dataclass, and each column stores one of its members. PostgreSQL's type decides how:

    type          the member                      COPY writes           SELECT reads
    uuid          its canonical text, a str       as it is              id::text
    smallint      int                             its digits            as it is
    integer       int                             its digits            as it is
    bigint        int                             its digits            as it is
    numeric       Decimal                         its digits            as it is
    timestamptz   datetime with a time zone       ISO 8601              as it is
    bytea         hex digits, a str; or None      \\x and the digits    encode(x, 'hex')
    text          any str without NUL; or None    with escapes          as it is
    json          dict of texts; or None          its JSON text         JSON text, which `Column.value_of` decodes

database/copy_text.py writes. What may be None has no default in its table, because COPY leaves out a column in which no
row has a value. Where a uuid or a number may be None, its column says so. An id and a hash are text in our processes,
because the path of an order never needs the object.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

Type = Literal["uuid", "smallint", "integer", "bigint", "numeric", "timestamptz", "bytea", "text", "json"]
_OPTIONAL: tuple[Type, ...] = ("bytea", "text", "json")

# SQL that reads a column of these types as its member; the others are read as they are.
_READ: dict[Type, str] = {"uuid": "{}::text", "bytea": "encode({}, 'hex')"}


_decode = msgspec.json.Decoder(dict[str, str]).decode


class Column(NamedTuple):
    name: str
    type: Type
    stores: str = ""
    """The member that it stores, if that has another name."""
    optional: bool = False
    """Whether the id or the number may be None. Of other types, see `may_be_none`."""

    @property
    def may_be_none(self) -> bool:
        return self.optional or self.type in _OPTIONAL

    @property
    def member(self) -> str:
        """The member that it stores."""
        return self.stores or self.name

    def value_of(self, read: Any) -> Any:
        """The member's value, from what SELECT read."""
        return _decode(read) if self.type == "json" and read is not None else read


def names_of(columns: Iterable[Column]) -> str:
    """The columns as a list in SQL: `id, accepted_at`."""
    return ", ".join(column.name for column in columns)


def selected(columns: Iterable[Column], table: str) -> str:
    """A SELECT list that reads `columns` as members: `o.id::text AS id, o.accepted_at AS created_at`."""
    return ", ".join(
        f"{_READ.get(column.type, '{}').format(f'{table}.{column.name}')} AS {column.member}" for column in columns
    )
