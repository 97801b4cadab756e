-- The verdict on an order of several lines, and what a refusal may say besides its reason.
--
-- The verdict stays one row for each order, and its key the order's id: all lines are decided as one. A basket's row
-- has no product and no quantity. Its lines are the order's rows, and PROCESSED means that the stock has lost them all.

ALTER TABLE stock_ledger
    -- As in orders. Null: an order of one line, or one that was discarded unread.
    ADD COLUMN line_count  smallint,
    -- Which line of a basket did not get its units.
    ADD COLUMN failed_line smallint,
    -- How many units were left of the product.
    ADD COLUMN units_left  bigint,
    DROP CONSTRAINT stock_ledger_processed_something,
    -- A PROCESSED order that took nothing, or of nothing. NOT VALID: every row so far has both, as the constraint said
    -- that this one takes the place of.
    ADD CONSTRAINT stock_ledger_processed_something CHECK (
        outcome = 'FAILED' OR line_count IS NOT NULL OR (product_id IS NOT NULL AND quantity IS NOT NULL)
    ) NOT VALID,
    -- A basket whose verdict moves the stock of one product, or counts as an order of one line.
    ADD CONSTRAINT stock_ledger_line_count_check CHECK (
        line_count IS NULL OR (line_count BETWEEN 2 AND 50 AND product_id IS NULL AND quantity IS NULL)
    ) NOT VALID,
    -- A line to blame that the order does not have, or although nothing failed.
    ADD CONSTRAINT stock_ledger_failed_line_check CHECK (
        failed_line IS NULL OR (failed_line >= 0 AND failed_line < coalesce(line_count, 0) AND outcome = 'FAILED')
    ) NOT VALID,
    -- Units that were left and did not go to the order, of an order that got what it asked for.
    ADD CONSTRAINT stock_ledger_units_left_check CHECK (
        units_left IS NULL OR (units_left >= 0 AND outcome = 'FAILED')
    ) NOT VALID;
