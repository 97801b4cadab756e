-- Orders, stock, and what could not be an order. Append where possible: an order's verdict is a row, not an update.

CREATE TABLE products (
    id         uuid PRIMARY KEY,
    -- A product that nobody can recognise in a list; product_api refuses it at its door.
    name       text NOT NULL CHECK (name <> ''),
    -- An order would pay its client.
    price      numeric(12, 2) NOT NULL CHECK (price >= 0),
    -- The last word on P3. decide() never asks for it; if it ever fires, a batch fails loudly and nothing is oversold.
    qty        bigint NOT NULL CHECK (qty >= 0),
    -- Grows by one with every change of the row. The cache's fence, the ETag, and the order of events rest on it.
    version    bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- A deleted product stays for its orders' sake, and can no longer be ordered.
    deleted_at timestamptz
);

-- GET /products, newest first, by keyset.
CREATE INDEX products_newest ON products (created_at DESC, id DESC) WHERE deleted_at IS NULL;

CREATE TABLE orders (
    -- Minted by ingest_api. The primary key is what makes a redelivered order one row (P2) and a retried one too (P5).
    id           uuid PRIMARY KEY,
    -- No foreign key: the write path looks nothing up. An order for a product that is gone is decided FAILED.
    product_id   uuid NOT NULL,
    -- Refused at the door already; here it stops a message from somewhere else.
    quantity     integer NOT NULL CHECK (quantity > 0),
    -- A negative one comes from somewhere else too: no product has it.
    unit_price   numeric(12, 2) NOT NULL CHECK (unit_price >= 0),
    -- A total that was computed wrongly, or rounded on its way: what the client was told must be what is charged.
    total_price  numeric(20, 2) NOT NULL CHECK (total_price = unit_price * quantity),
    accepted_at  timestamptz NOT NULL,
    request_hash bytea,
    persisted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- GET /api/v1/orders/product/{id}, newest first, by keyset.
CREATE INDEX orders_of_product ON orders (product_id, accepted_at DESC, id DESC);

-- One row for each change of qty that is not an order: creation, restock, correction. So at every commit
-- qty = sum(stock_adjustments.delta) - sum(quantity of PROCESSED orders), and the audit needs no other source.
CREATE TABLE stock_adjustments (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id  uuid NOT NULL REFERENCES products (id),
    -- A change that changes nothing explains nothing, and would hide a writer that lost its amount.
    delta       bigint NOT NULL CHECK (delta <> 0),
    -- A misspelt reason drops out of every report that groups by it. A new one is a new revision.
    reason      text NOT NULL CHECK (reason IN ('creation', 'restock', 'correction')),
    adjusted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX stock_adjustments_of_product ON stock_adjustments (product_id);

CREATE TABLE stock_ledger (
    -- One verdict for each order, however often its message comes (P2).
    order_id   uuid PRIMARY KEY,
    product_id uuid NOT NULL,
    -- A verdict that gives stock back: it would balance the books of an oversold product (P3).
    quantity   integer NOT NULL CHECK (quantity > 0),
    -- A third outcome: P4 knows two, and who reads the status shows it as it is.
    outcome    text NOT NULL CHECK (outcome IN ('PROCESSED', 'FAILED')),
    reason     text,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- A refusal without a reason is a question to the support desk (P4).
    CHECK ((outcome = 'FAILED') = (reason IS NOT NULL))
);

CREATE TABLE dead_letters (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Null when the input is so broken that it does not say.
    order_id      uuid,
    -- A replay would not know which queue to send it to.
    stage         text NOT NULL CHECK (stage IN ('persist', 'stock')),
    reason        text NOT NULL,
    detail        text NOT NULL,
    -- For the replay: input that could not be read as it came, byte by byte; an order that could be read, encoded anew.
    body          bytea NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    replayed_at   timestamptz
);

-- The status of an order: a dead letter means FAILED. Not unique: an order may die again after its replay.
CREATE INDEX dead_letters_of_order ON dead_letters (order_id);

-- Poison that is delivered again, or to two workers at once, waits for its replay once.
CREATE UNIQUE INDEX dead_letters_waiting ON dead_letters (stage, sha256(body)) WHERE replayed_at IS NULL;
