"""How fast, and at what price: programs that measure, and the results that the documents quote."""
