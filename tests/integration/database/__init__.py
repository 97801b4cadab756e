"""PostgreSQL: sessions, migrations, accounts, failover."""
