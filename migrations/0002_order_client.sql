-- Whose order it is: the name of the client whose API key made it.

-- Null: made while the service was open, or before there were keys. It is no client's, so only who sees all can read it.
-- A client who reads another's orders: with keys, a read is answered by this column and by nothing that a client sends.
ALTER TABLE orders
    ADD COLUMN client text,
    -- A client without a name would be everybody who has none. NOT VALID, so that the table is locked for two
    -- milliseconds and not while all its rows are looked at; the next revision does that, and lets others by.
    ADD CONSTRAINT orders_client_check CHECK (client <> '') NOT VALID;
