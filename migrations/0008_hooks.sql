-- Webhooks: the URLs to which event_relay sends events, each with its cursor.

CREATE TABLE hooks (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    url            text NOT NULL CHECK (url <> ''),
    -- Null: all types.
    types          text[] CHECK (cardinality(types) > 0),
    -- Null: all products.
    product_id     uuid,
    -- Events in one request, at most.
    batch          integer NOT NULL DEFAULT 1 CHECK (batch BETWEEN 1 AND 1000),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Up to this offset of the log, everything is delivered or of no interest to the hook: one row for each hook, not
    -- one for each event.
    delivered      bigint NOT NULL CHECK (delivered >= 0),
    delivered_at   timestamptz,
    -- Null: it is sent to. A hook that nobody pauses is tried for ever.
    pause_reason   text CHECK (pause_reason <> ''),
    -- Of the first attempt since the last success, and how many followed. Null: the last attempt was a success.
    failing_since  timestamptz,
    failures       integer NOT NULL DEFAULT 0,
    last_error     text,
    retry_at       timestamptz,
    -- When somebody asked for a test event; null once it is sent.
    test_wanted_at timestamptz,
    -- Of two event_relays, the one that sends to this hook now. It extends its lease; past held_until, another takes it.
    holder         uuid,
    held_until     timestamptz,
    CHECK ((holder IS NULL) = (held_until IS NULL))
);

-- A table of its own, because only event_relay may read it.
CREATE TABLE hook_secrets (
    hook_id    uuid NOT NULL REFERENCES hooks (id) ON DELETE CASCADE,
    -- As Standard Webhooks writes it: whsec_ and base64.
    secret     text NOT NULL CHECK (secret LIKE 'whsec\_%'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- After a rotation the old secret signs as well, until then. Null: the current one.
    expires_at timestamptz,
    PRIMARY KEY (hook_id, created_at)
);
-- Two current secrets: a receiver that has been given one of them could not verify every request.
CREATE UNIQUE INDEX hook_secrets_current ON hook_secrets (hook_id) WHERE expires_at IS NULL;

-- The last attempts of each hook; event_relay deletes older ones.
CREATE TABLE hook_attempts (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hook_id      uuid NOT NULL REFERENCES hooks (id) ON DELETE CASCADE,
    attempted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Of the events in the request. Null for a test event.
    first_offset bigint,
    last_offset  bigint,
    events       integer NOT NULL,
    -- Null: no answer; `error` says why.
    status       integer,
    took_ms      integer NOT NULL,
    -- The first bytes of the answer, as text.
    answer       text NOT NULL DEFAULT '',
    error        text
);
CREATE INDEX hook_attempts_of_hook ON hook_attempts (hook_id, id);

-- How far the exchange order_events has been told: one row.
CREATE TABLE event_exchange (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    published  bigint NOT NULL DEFAULT 0,
    holder     uuid,
    held_until timestamptz,
    CHECK ((holder IS NULL) = (held_until IS NULL))
);
INSERT INTO event_exchange DEFAULT VALUES;
