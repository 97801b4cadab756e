-- A dead letter that an operator gives up: it is not replayed any more, and its order is FAILED for ever.

-- The letter keeps replayed_at NULL, so it stays in the unique index dead_letters_waiting: the same poison, delivered
-- once more, is not parked a second time and stays discarded.
ALTER TABLE dead_letters
    ADD COLUMN discarded_at   timestamptz,
    ADD COLUMN discard_reason text,
    -- A letter that was given up without anybody saying why, which the next operator asks.
    ADD CONSTRAINT dead_letters_discard_reason CHECK (
        (discarded_at IS NULL) = (discard_reason IS NULL) AND discard_reason <> ''
    ),
    -- One that is on its way into the pipeline while its order is said to be FAILED for ever.
    ADD CONSTRAINT dead_letters_discarded_or_replayed CHECK (discarded_at IS NULL OR replayed_at IS NULL);

-- To discard writes the verdict, so that its primary key stops whatever of the order still comes: a redelivery, or a
-- client's retry with the same key. The input of a letter may be so broken that it says neither product nor quantity.
ALTER TABLE stock_ledger
    ALTER COLUMN product_id DROP NOT NULL,
    ALTER COLUMN quantity DROP NOT NULL,
    -- A PROCESSED order that took nothing, or of nothing. NOT VALID: every row so far has both, as the columns said.
    ADD CONSTRAINT stock_ledger_processed_something CHECK (
        outcome = 'FAILED' OR (product_id IS NOT NULL AND quantity IS NOT NULL)
    ) NOT VALID;
