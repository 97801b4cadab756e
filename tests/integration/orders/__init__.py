"""POST /api/v1/orders and its bulk form, on real servers."""
