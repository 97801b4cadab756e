"""The SQL that several contenders share: one statement each, so one round trip and one transaction without BEGIN.

Written for asyncpg's placeholders; psycopg's differ, see fastapi_celery.
"""

PRICE = "SELECT price FROM products WHERE id = $1 AND deleted_at IS NULL"

INSERT_ORDER = """
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at) VALUES ($1, $2, $3, $4, $5, $6)
"""

_VERDICT = """
    CASE WHEN EXISTS (SELECT FROM taken) THEN 'PROCESSED' ELSE 'FAILED' END,
    CASE WHEN EXISTS (SELECT FROM taken) THEN NULL ELSE 'out_of_stock' END
"""

# For a stored order. A redelivery fails on the ledger's primary key, so its UPDATE is rolled back.
DECIDE = f"""
    WITH taken AS (
        UPDATE products SET qty = qty - $3, version = version + 1, updated_at = clock_timestamp()
        WHERE id = $2 AND qty >= $3 AND deleted_at IS NULL RETURNING id
    )
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason) SELECT $1, $2, $3, {_VERDICT}
"""

# Stores and decides. A redelivery inserts no order, so it takes no stock and writes no verdict.
STORE_AND_DECIDE = f"""
    WITH stored AS ({INSERT_ORDER} ON CONFLICT (id, line) DO NOTHING RETURNING id, product_id, quantity),
    taken AS (
        UPDATE products p SET qty = p.qty - s.quantity, version = p.version + 1, updated_at = clock_timestamp()
        FROM stored s WHERE p.id = s.product_id AND p.qty >= s.quantity AND p.deleted_at IS NULL RETURNING p.id
    )
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason)
    SELECT id, product_id, quantity, {_VERDICT} FROM stored
"""
