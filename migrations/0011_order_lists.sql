-- GET /api/v1/orders, newest first, by keyset: an index for each thing that orders are looked for by.
--
-- All ascend and are read backwards, so new rows come to the right edge, where PostgreSQL leaves full pages behind. None
-- holds the id, which would make an entry larger by 16 bytes: the few orders of one microsecond are sorted as they are
-- read. What each costs an order is in docs/internals/decisions.md.
--
-- persist_worker waits while they are built: for 10,000,000 orders 149 s, the whole revision, on two cores that had work
-- for seventeen. Orders are accepted meanwhile, and wait in the broker. Not CONCURRENTLY: see 0003. The four take 1.0 GB.

-- All orders. An order of several lines is listed by its first.
CREATE INDEX orders_newest ON orders (accepted_at) WHERE line = 0;

-- One client's orders. Partial, so that an order made while the service is open pays nothing for it.
CREATE INDEX orders_of_client ON orders (client, accepted_at) WHERE client IS NOT NULL AND line = 0;

-- The client's own number. An order without one pays nothing.
CREATE INDEX orders_of_reference ON orders (reference, accepted_at) WHERE reference IS NOT NULL AND line = 0;

-- The orders that contain a product, whichever line it is.
CREATE INDEX orders_with_product ON orders (product_id, accepted_at);

-- The few orders that failed, or were parked on their way to a verdict. status=FAILED finds them without reading the
-- many others. The reader looks at the verdict itself, because a replay may have made the order PROCESSED since: a
-- status is still in one place.
CREATE TABLE failed_orders (
    accepted_at timestamptz NOT NULL,
    order_id    uuid NOT NULL,
    -- A parked order fails later, or is parked again after its replay.
    PRIMARY KEY (accepted_at, order_id)
);

-- Statement triggers, as those of the event log. A process that decides or parks an order, of the release before too,
-- needs to know nothing of the list. SECURITY DEFINER: the role that decides an order may not read orders. Of batches of
-- 250 verdicts, 0.2 µs an order if none failed, 0.7 µs if one in a hundred did.
CREATE FUNCTION list_failed_verdicts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF EXISTS (SELECT FROM written WHERE outcome = 'FAILED') THEN
        INSERT INTO failed_orders (accepted_at, order_id)
        SELECT o.accepted_at, o.id FROM written w JOIN orders o ON o.id = w.order_id AND o.line = 0
        WHERE w.outcome = 'FAILED' ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

-- A letter of the persist stage says nothing of a stored order: see ingest_api/reads/stored_orders.py.
CREATE FUNCTION list_parked_orders() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO failed_orders (accepted_at, order_id)
    SELECT o.accepted_at, o.id FROM written w JOIN orders o ON o.id = w.order_id AND o.line = 0
    WHERE w.stage = 'stock' ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- From here to the commit, no order is decided or parked, so none is missed between the triggers and the filling.
CREATE TRIGGER list_failed_verdicts AFTER INSERT ON stock_ledger
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION list_failed_verdicts();
CREATE TRIGGER list_parked_orders AFTER INSERT ON dead_letters
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION list_parked_orders();

-- For 10,000,000 orders of which 100,000 failed: 17 s, on the same cores.
INSERT INTO failed_orders (accepted_at, order_id)
SELECT o.accepted_at, o.id FROM orders o JOIN stock_ledger l ON l.order_id = o.id
WHERE l.outcome = 'FAILED' AND o.line = 0
UNION
SELECT o.accepted_at, o.id FROM orders o JOIN dead_letters d ON d.order_id = o.id
WHERE d.stage = 'stock' AND o.line = 0;

REVOKE ALL ON FUNCTION list_failed_verdicts, list_parked_orders FROM PUBLIC;

-- The tables of this schema, whatever the caller's search_path is, and before any temporary table of the same name.
DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY['list_failed_verdicts', 'list_parked_orders'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', function, current_schema());
        -- A session keeps its plan. One that was made while the tables were small would read all orders for each batch.
        EXECUTE format('ALTER FUNCTION %I SET enable_seqscan = off', function);
        EXECUTE format('ALTER FUNCTION %I SET enable_hashjoin = off', function);
        EXECUTE format('ALTER FUNCTION %I SET enable_mergejoin = off', function);
    END LOOP;
END $$;
