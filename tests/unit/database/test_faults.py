"""What an error of PostgreSQL means for a batch. In doubt it is held: late is better than lost."""

import asyncpg
import pytest
from asyncpg.exceptions import (
    AdminShutdownError,
    CannotConnectNowError,
    CharacterNotInRepertoireError,
    CheckViolationError,
    ConnectionDoesNotExistError,
    DeadlockDetectedError,
    DiskFullError,
    InsufficientPrivilegeError,
    InvalidPasswordError,
    InvalidSQLStatementNameError,
    InvalidTextRepresentationError,
    LockNotAvailableError,
    NotNullViolationError,
    NumericValueOutOfRangeError,
    ObjectNotInPrerequisiteStateError,
    QueryCanceledError,
    ReadOnlySQLTransactionError,
    SerializationError,
    TooManyConnectionsError,
    UndefinedTableError,
    UniqueViolationError,
)

from database.copy_text import UnsafeText
from database.faults import Fault, cause_of, describe, fault_of


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


# ── what passes has a cause, in words


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"), "read_only"),
        (asyncpg.TargetServerAttributeNotMatched("None of the hosts match"), "read_only"),
        (AdminShutdownError("terminating connection"), "shutting_down"),
        (CannotConnectNowError("the database system is starting up"), "starting"),
        (ConnectionDoesNotExistError("connection was closed in the middle of operation"), "unreachable"),
        (ConnectionResetError(), "unreachable"),
        (ObjectNotInPrerequisiteStateError("recovery is in progress"), "not_in_state"),
        (InvalidPasswordError("password authentication failed"), "login_refused"),
        (TooManyConnectionsError("sorry, too many clients already"), "too_many_connections"),
        (SerializationError("canceling statement due to conflict with recovery"), "conflict"),
        (InvalidSQLStatementNameError("prepared statement does not exist"), "pooler"),
        (asyncpg.InterfaceError("connection is closed"), "broken_session"),
        (
            asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
            "broken_session",
        ),
    ],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_p12_a_connection_whose_server_cannot_do_the_work_is_of_no_use(error: Exception, cause: str) -> None:
    assert (cause_of(error).name, cause_of(error).spoils) == (cause, True)


@pytest.mark.parametrize(
    "error",
    [
        LockNotAvailableError("lock timeout"),
        QueryCanceledError("statement timeout"),
        DeadlockDetectedError("deadlock"),
        DiskFullError("disk"),
        UndefinedTableError("not migrated yet"),
        InsufficientPrivilegeError("denied"),
        TimeoutError(),
    ],
    ids=lambda it: type(it).__name__,
)
def test_a_connection_is_kept_where_another_would_fare_no_better(error: Exception) -> None:
    assert not cause_of(error).spoils


def test_the_cause_is_told_in_words() -> None:
    assert "did not answer in time" in describe(TimeoutError())
    assert "standby" in describe(ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"))
    broken = describe(asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"))
    assert "state 12" not in broken
    assert "did not answer" in broken
