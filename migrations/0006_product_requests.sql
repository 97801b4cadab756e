-- Idempotency-Key of product_api: the answer to a change, committed with the change.

CREATE TABLE product_requests (
    -- "" where the service is open, and nobody has a name.
    client      text NOT NULL CHECK (length(client) <= 64),
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- A key that comes with another request: the client would be told of a change that it did not ask for.
    request     bytea NOT NULL,
    -- The answer: the product as it was then, byte by byte.
    status      smallint NOT NULL,
    product_id  uuid NOT NULL,
    version     bigint NOT NULL,
    body        bytea NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Two requests with one key at once: one commits its change, the other finds the answer.
    PRIMARY KEY (client, key)
);

-- What is older than the lifetime of a key goes, a few rows with each new one: the table does not grow for ever.
CREATE INDEX product_requests_by_age ON product_requests (answered_at);
