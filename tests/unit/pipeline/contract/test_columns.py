"""Columns, as SQL names and reads them."""

from pipeline.contract.columns import Column, names_of, selected

COLUMNS = (Column("id", "uuid"), Column("accepted_at", "timestamptz", stores="created_at"), Column("hash", "bytea"))


def test_a_select_reads_each_column_as_the_member_that_it_stores() -> None:
    assert selected(COLUMNS, "o") == "o.id::text AS id, o.accepted_at AS created_at, encode(o.hash, 'hex') AS hash"


def test_an_insert_names_the_columns() -> None:
    assert names_of(COLUMNS) == "id, accepted_at, hash"
