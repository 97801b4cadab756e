-- Cancellations: a client takes back an order. Each is stored before anybody looks for its order, and settled with the
-- stock, in one transaction (product_consumer/cancel.py says why none is lost).

CREATE TABLE cancellations (
    order_id     uuid NOT NULL,
    -- Who asks: the name of the client, '' where the service is open. Part of the key: a stranger that asks first would
    -- otherwise take the owner's place.
    client       text NOT NULL CHECK (length(client) <= 64),
    sees_all     boolean NOT NULL,
    -- The client's words.
    reason       text CHECK (length(reason) BETWEEN 1 AND 200),
    requested_at timestamptz NOT NULL,
    stored_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Null: it waits for its order. before_verdict: the order takes no stock. returned: its stock went back. too_late:
    -- the order was FAILED or cancelled already. not_yours: another client's order. A misspelt outcome would leave the
    -- order PROCESSED, while its stock is given back.
    outcome      text CHECK (outcome IN ('before_verdict', 'returned', 'too_late', 'not_yours')),
    settled_at   timestamptz,
    -- Of its order, once it is settled: lists are by it.
    accepted_at  timestamptz,
    -- A cancellation without the time that the client is shown.
    CHECK ((outcome IS NULL) = (settled_at IS NULL)),
    -- The same request, redelivered or sent again, is one row.
    PRIMARY KEY (order_id, client, sees_all)
);

-- One winner: two would be one order that gives its stock back twice, and two events. GET finds it here.
CREATE UNIQUE INDEX cancellations_effective ON cancellations (order_id)
    WHERE outcome IN ('before_verdict', 'returned');
-- The cancelled orders, newest first: status=CANCELLED finds them without reading the many others.
CREATE INDEX cancellations_listed ON cancellations (accepted_at, order_id)
    WHERE outcome IN ('before_verdict', 'returned');
-- Those that wait. Every batch of verdicts looks here, so it has only those: mostly none.
CREATE INDEX cancellations_waiting ON cancellations (order_id) WHERE outcome IS NULL;

ALTER TABLE stock_adjustments
    -- The order whose units came back; null for every other reason.
    ADD COLUMN order_id uuid,
    DROP CONSTRAINT stock_adjustments_reason_check,
    ADD CONSTRAINT stock_adjustments_reason_check
        CHECK (reason IN ('creation', 'restock', 'correction', 'cancellation')) NOT VALID,
    -- Units that come back and name no order: nobody could tell whether they came back once. Or a cancelled order that
    -- takes units away.
    ADD CONSTRAINT stock_adjustments_of_order CHECK (
        (reason = 'cancellation') = (order_id IS NOT NULL) AND (order_id IS NULL OR delta > 0)
    ) NOT VALID;
-- The last word on "given back once". An order has a product at most once.
CREATE UNIQUE INDEX stock_adjustments_of_cancelled ON stock_adjustments (order_id, product_id)
    WHERE order_id IS NOT NULL;

ALTER TABLE stock_ledger
    DROP CONSTRAINT stock_ledger_outcome_check,
    -- A fourth outcome: P4 knows three. A CANCELLED order has no reason, which is for FAILED alone.
    ADD CONSTRAINT stock_ledger_outcome_check CHECK (outcome IN ('PROCESSED', 'FAILED', 'CANCELLED')) NOT VALID;

ALTER TABLE dead_letters
    DROP CONSTRAINT dead_letters_stage_check,
    -- A replay would not know which queue to send it to.
    ADD CONSTRAINT dead_letters_stage_check CHECK (stage IN ('persist', 'stock', 'cancel')) NOT VALID,
    -- A cancellation that cannot be read says nothing of its order: with the id, the order would be FAILED.
    ADD CONSTRAINT dead_letters_of_cancellations CHECK (stage <> 'cancel' OR order_id IS NULL) NOT VALID;

-- ── the event log: an order that is cancelled before its verdict has one event, that of the verdict CANCELLED. One that
-- is cancelled after it has a second event, which is a batch of a third kind.

ALTER TABLE event_batches
    -- Orders whose stock came back, in the order of their ids.
    ADD COLUMN cancelled uuid[],
    DROP CONSTRAINT event_batches_check,
    -- A batch that tells of nothing, or of two things in no order.
    ADD CONSTRAINT event_batches_of_one_kind CHECK (
        size = coalesce(cardinality(orders), cardinality(letters), cardinality(cancelled))
        AND num_nonnulls(orders, letters, cancelled) = 1
    ) NOT VALID;

CREATE FUNCTION log_cancellations() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO event_batches (cancelled, size)
    SELECT array_agg(w.order_id ORDER BY w.order_id), count(*)
    FROM written w JOIN before b USING (order_id, client, sees_all)
    WHERE w.outcome = 'returned' AND b.outcome IS NULL HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER log_cancellations AFTER UPDATE ON cancellations
    REFERENCING OLD TABLE AS before NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION log_cancellations();

-- As in 0007. New: a letter may also follow the event of a returned order, if another order was parked under its id.
CREATE OR REPLACE FUNCTION number_letters(before bigint, log_began_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    parked        uuid[];
    decided       uuid[];
    returned      uuid[];
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
    IF cardinality(decided) > 0 THEN
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
    END IF;

    -- The same for orders whose stock came back.
    returned := ARRAY(
        SELECT c.order_id FROM unnest(parked) AS p (order_id) JOIN cancellations c USING (order_id)
        WHERE c.outcome = 'returned'
    );
    IF cardinality(returned) > 0 THEN
        SELECT array_agg(order_id), array_agg(first_offset) INTO later, later_offsets
        FROM unnest(returned) AS d (order_id) JOIN (
            SELECT unnest(cancelled) AS order_id, first_offset FROM event_batches WHERE first_offset > before
            UNION ALL SELECT unnest(cancelled), NULL FROM event_batches WHERE first_offset IS NULL
        ) AS v USING (order_id);
        UPDATE dead_letters d SET event_sequence = d.event_sequence + 1
        FROM unnest(returned) AS it (order_id)
        WHERE d.order_id = it.order_id AND d.event_offset > before AND NOT EXISTS (
            SELECT FROM unnest(later, later_offsets) AS v (order_id, first_offset)
            WHERE v.order_id = d.order_id AND coalesce(v.first_offset > d.event_offset, true)
        );
    END IF;
END $$;

REVOKE ALL ON FUNCTION log_cancellations FROM PUBLIC;

-- As in 0007. CREATE OR REPLACE has dropped the settings of number_letters.
DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY['number_letters', 'log_cancellations'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
    ALTER FUNCTION number_letters SET enable_mergejoin = off;
    ALTER FUNCTION number_letters SET plan_cache_mode = force_custom_plan;
END $$;
