"""What an error of PostgreSQL means for a batch. In doubt it is held: late is better than lost."""

import asyncpg
import pytest
from asyncpg.exceptions import (
    AdminShutdownError,
    CharacterNotInRepertoireError,
    CheckViolationError,
    ConnectionDoesNotExistError,
    DeadlockDetectedError,
    DiskFullError,
    InsufficientPrivilegeError,
    InvalidTextRepresentationError,
    LockNotAvailableError,
    NotNullViolationError,
    NumericValueOutOfRangeError,
    QueryCanceledError,
    ReadOnlySQLTransactionError,
    SerializationError,
    TooManyConnectionsError,
    UndefinedTableError,
    UniqueViolationError,
)

from database.copy_text import UnsafeText
from database.faults import Fault, describe, fault_of


@pytest.mark.parametrize(
    "error",
    [
        ConnectionDoesNotExistError("gone"),
        AdminShutdownError("shutting down"),
        LockNotAvailableError("lock timeout"),
        QueryCanceledError("statement timeout"),
        DeadlockDetectedError("deadlock"),
        SerializationError("serialize"),
        DiskFullError("disk"),
        TooManyConnectionsError("full"),
        ReadOnlySQLTransactionError("a standby"),
        UndefinedTableError("not migrated yet"),
        InsufficientPrivilegeError("denied"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("confused"),
        ConnectionRefusedError(),
        TimeoutError(),
        EOFError(),
    ],
    ids=lambda it: type(it).__name__,
)
def test_p10_what_passes_is_never_blamed_on_an_order(error: Exception) -> None:
    assert fault_of(error) is Fault.PASSING


@pytest.mark.parametrize(
    "error",
    [
        InvalidTextRepresentationError("uuid"),
        CharacterNotInRepertoireError("NUL"),
        NumericValueOutOfRangeError("overflow"),
        CheckViolationError("quantity"),
        NotNullViolationError("null"),
        UnsafeText("a tab"),
        asyncpg.DataError("invalid input for query argument $1"),
    ],
    ids=lambda it: type(it).__name__,
)
def test_p10_what_blames_the_row_is_data(error: Exception) -> None:
    assert fault_of(error) is Fault.DATA


def test_p2_a_row_that_is_there_is_a_duplicate() -> None:
    assert fault_of(UniqueViolationError("orders_pkey")) is Fault.DUPLICATE


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), TypeError("x"), RuntimeError("x")], ids=repr)
def test_a_bug_of_ours_is_not_the_databases_fault(error: Exception) -> None:
    assert fault_of(error) is None


def test_an_error_is_described_without_the_row() -> None:
    error = UniqueViolationError("duplicate key value violates unique constraint")
    error.detail = "Key (id)=(secret) already exists."
    assert describe(error) == "23505 duplicate key value violates unique constraint"
    assert describe(TimeoutError()) == "TimeoutError: "
