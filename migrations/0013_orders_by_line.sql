-- The key of a row of orders that is a line: the order and its number in it.

-- persist_worker waits while it is built. Orders are accepted meanwhile, and wait in the broker. Not CONCURRENTLY: see
-- 0003.
CREATE UNIQUE INDEX orders_by_line ON orders (id, line);
