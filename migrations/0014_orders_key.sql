-- The key (id, line) takes the place of (id). The index is there already, so it takes milliseconds.

-- Two rows of one line: an order that is stored twice, which a redelivery would otherwise do.
ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY USING INDEX orders_by_line;
