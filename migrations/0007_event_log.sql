-- The event log: every verdict and every parked order, numbered in an order in which no event can be skipped.
--
-- A trigger writes one row for each statement that decides or parks orders, in that statement's transaction. So an
-- event exists exactly if its cause is committed, even if psql or a worker of the release before wrote it. For an
-- order it costs 16 bytes, and 0.3 µs in batches of 250 (COPY of stock_ledger, measured with and without). An indexed
-- column of the ledger took as long and four times the WAL.
--
-- A row gets its offset after its commit, from number_events(). A transaction that commits late gets a later offset, so
-- a reader that follows offsets passes no open transaction, and waits for none.

CREATE TABLE event_batches (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The decided orders, in the order of their verdicts.
    orders       uuid[],
    -- The parked ones: ids of dead_letters, ascending.
    letters      bigint[],
    size         integer NOT NULL CHECK (size > 0),
    -- Of its first event. Offsets have no gaps: the next batch begins at first_offset + size.
    first_offset bigint,
    numbered_at  timestamptz,
    -- A batch that tells of nothing, or of two things in no order.
    CHECK (size = coalesce(cardinality(orders), cardinality(letters)) AND (orders IS NULL) <> (letters IS NULL)),
    CHECK ((first_offset IS NULL) = (numbered_at IS NULL))
);

-- Ids compress by a tenth, and trying takes longer than writing them.
ALTER TABLE event_batches ALTER COLUMN orders SET STORAGE EXTERNAL;

-- Reading from an offset. Two batches with one offset would be two events with one cursor.
CREATE UNIQUE INDEX event_batches_by_offset ON event_batches (first_offset) WHERE first_offset IS NOT NULL;
-- Reading from a time. numbered_at never falls as offsets grow.
CREATE INDEX event_batches_by_time ON event_batches (numbered_at) WHERE first_offset IS NOT NULL;
-- What number_events() has to number.
CREATE INDEX event_batches_waiting ON event_batches (id) WHERE first_offset IS NULL;

CREATE TABLE event_log (
    -- One row.
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- Part of every cursor, so that a cursor of another log is refused instead of followed.
    id          integer NOT NULL DEFAULT floor(random() * 2147483647)::integer,
    last_offset bigint NOT NULL DEFAULT 0,
    numbered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Verdicts and letters before this have no event.
    began_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For a parked order: its place in the log, and which event of its order it is. Null: not numbered, or older than the
-- log.
ALTER TABLE dead_letters
    ADD COLUMN event_offset   bigint,
    ADD COLUMN event_sequence integer;

-- SECURITY DEFINER: the role that decides an order needs no right to the log. Where these functions look for tables is
-- said at the end.
CREATE FUNCTION log_verdicts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO event_batches (orders, size) SELECT array_agg(order_id), count(*) FROM written HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE FUNCTION log_letters() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    -- A letter without an order id is no event: nobody knows which order it was.
    INSERT INTO event_batches (letters, size)
    SELECT array_agg(id ORDER BY id), count(*) FROM written WHERE order_id IS NOT NULL HAVING count(*) > 0;
    RETURN NULL;
END $$;

-- Each waits for the statements that write its table now, so every row belongs either to the log or to the time before.
CREATE TRIGGER log_verdicts AFTER INSERT ON stock_ledger
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION log_verdicts();
CREATE TRIGGER log_letters AFTER INSERT ON dead_letters
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION log_letters();

INSERT INTO event_log DEFAULT VALUES;

-- Number at most `most` of the batches that wait, and return the last offset of the log. Call it as a statement of its
-- own: it holds its lock until the commit, so offsets become visible in ascending order.
CREATE FUNCTION number_events(most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    log         event_log;
    before      bigint;
    has_letters boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM event_batches WHERE first_offset IS NULL) THEN
        RETURN (SELECT last_offset FROM event_log);
    END IF;
    SELECT * INTO log FROM event_log FOR UPDATE;
    before := log.last_offset;
    -- In the order of ids. Of two events of one order, the later began after the commit of the earlier, so it has the
    -- greater id, and a snapshot that has it has the earlier one as well.
    WITH waiting AS (
        SELECT id, size, sum(size) OVER (ORDER BY id) AS upto
        FROM (SELECT id, size FROM event_batches WHERE first_offset IS NULL ORDER BY id LIMIT most) AS oldest
    ), numbered AS (
        UPDATE event_batches b
        SET first_offset = before + w.upto - w.size + 1,
            -- One time for all, so that times never fall as offsets grow. It is taken after the commit of each.
            numbered_at = (SELECT greatest(log.numbered_at, clock_timestamp()))
        FROM waiting w WHERE b.id = w.id
        RETURNING b.size, b.letters, b.numbered_at
    )
    SELECT before + coalesce(sum(size), 0), coalesce(max(numbered_at), log.numbered_at), count(letters) > 0
    INTO log.last_offset, log.numbered_at, has_letters FROM numbered;
    UPDATE event_log SET last_offset = log.last_offset, numbered_at = log.numbered_at;
    IF has_letters THEN
        PERFORM number_letters(before, log.began_at);
    END IF;
    RETURN log.last_offset;
END $$;

-- Give the letters of the batches after `before` their offsets, and count which event of its order each is. No
-- statement looks at the waiting verdicts once for each letter: after an outage of all that call this, that would take
-- longer than any deadline, for ever. What they join comes as arrays, whose lengths PostgreSQL knows when it plans.
CREATE FUNCTION number_letters(before bigint, log_began_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    parked        uuid[];
    decided       uuid[];
    later         uuid[];
    later_offsets bigint[];
BEGIN
    UPDATE dead_letters d SET event_offset = b.first_offset + l.place - 1
    FROM event_batches b CROSS JOIN unnest(b.letters) WITH ORDINALITY AS l (id, place)
    WHERE b.first_offset > before AND d.id = l.id;

    parked := ARRAY(
        SELECT DISTINCT d.order_id FROM event_batches b CROSS JOIN unnest(b.letters) AS l (id)
        JOIN dead_letters d ON d.id = l.id WHERE b.first_offset > before
    );
    UPDATE dead_letters d SET event_sequence = c.place
    FROM (
        SELECT e.id, row_number() OVER (PARTITION BY e.order_id ORDER BY e.event_offset) AS place
        FROM unnest(parked) AS p (order_id) JOIN dead_letters e USING (order_id) WHERE e.event_offset IS NOT NULL
    ) AS c
    WHERE d.id = c.id AND d.event_offset > before;

    -- A verdict precedes a letter only if another order was parked under the id of a decided one. Most verdicts follow:
    -- they have a later offset, or none yet.
    decided := ARRAY(
        SELECT s.order_id FROM unnest(parked) AS p (order_id) JOIN stock_ledger s USING (order_id)
        WHERE s.decided_at >= log_began_at
    );
    IF cardinality(decided) = 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(order_id), array_agg(first_offset) INTO later, later_offsets
    FROM unnest(decided) AS d (order_id) JOIN (
        SELECT unnest(orders) AS order_id, first_offset FROM event_batches WHERE first_offset > before
        UNION ALL SELECT unnest(orders), NULL FROM event_batches WHERE first_offset IS NULL
    ) AS v USING (order_id);
    UPDATE dead_letters d SET event_sequence = d.event_sequence + 1
    FROM unnest(decided) AS it (order_id)
    WHERE d.order_id = it.order_id AND d.event_offset > before AND NOT EXISTS (
        SELECT FROM unnest(later, later_offsets) AS v (order_id, first_offset)
        WHERE v.order_id = d.order_id AND coalesce(v.first_offset > d.event_offset, true)
    );
END $$;

-- Whoever may call number_events is in the table of grants. Triggers fire for everybody.
REVOKE ALL ON FUNCTION number_events, number_letters, log_verdicts, log_letters FROM PUBLIC;

-- The tables of this schema, whatever the caller's search_path is, and before any temporary table of the same name.
DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY['number_events', 'number_letters', 'log_verdicts', 'log_letters'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
    -- A merge would sort all orders that wait. A plan for any arrays would not know how long these are.
    ALTER FUNCTION number_letters SET enable_mergejoin = off;
    ALTER FUNCTION number_letters SET plan_cache_mode = force_custom_plan;
END $$;
