"""Orders, products, keys and results, made by hand; and what documents and schemas say of them."""
