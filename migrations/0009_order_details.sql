-- What a shop says of its order, and the lines of an order.
--
-- A row of orders is a line of an order. An order of one line is one row, as every row so far: its line is 0, and
-- line_count is null.
--
-- No row is rewritten and none is looked at, because the constraints are NOT VALID: with 1,000,000 orders the table is
-- locked for 2 ms. The next revision validates them, and lets others by.

ALTER TABLE orders
    -- The client's own number of the order. Not unique: Headrace tells orders apart by their id.
    ADD COLUMN reference  text,
    -- The client's own pairs, as JSON text. Not jsonb, which would sort the pairs, and costs more to write.
    ADD COLUMN metadata   json,
    -- Counted from 0.
    ADD COLUMN line       smallint NOT NULL DEFAULT 0,
    -- How many rows the order has, the same in each of them. Null: one.
    ADD COLUMN line_count smallint,
    -- An empty one names no order, and would be found with every other. One that is too long for an index fails a whole
    -- batch with an error that blames no row.
    ADD CONSTRAINT orders_reference_check CHECK (reference <> '' AND char_length(reference) <= 64) NOT VALID,
    -- A line that no answer has a place for.
    ADD CONSTRAINT orders_line_check CHECK (line BETWEEN 0 AND 49) NOT VALID,
    -- An order that can never be complete: it has a line past its last one. Or an order of one line that pays for
    -- several.
    ADD CONSTRAINT orders_line_count_check CHECK (
        CASE WHEN line_count IS NULL THEN line = 0 ELSE line_count BETWEEN 2 AND 50 AND line_count > line END
    ) NOT VALID;
