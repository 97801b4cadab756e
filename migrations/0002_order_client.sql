-- Whose order it is: the name of the client whose API key made it.

-- Null: made while the service was open, or before there were keys. It is no client's, so only who sees all can read it.
-- A client who reads another's orders: with keys, a read is answered by this column and by nothing that a client sends.
ALTER TABLE orders ADD COLUMN client text
    -- A client without a name would be everybody who has none.
    CHECK (client <> '');

-- GET /api/v1/orders/product/{id} for one client, newest first, by keyset: not by walking past everyone else's orders.
-- Partial, so that an order made while the service is open pays for no second index.
CREATE INDEX orders_of_product_by_client ON orders (product_id, client, accepted_at DESC, id DESC)
    WHERE client IS NOT NULL;
