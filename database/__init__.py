"""What the two workers share about PostgreSQL: one connection each, what its errors mean, COPY, dead letters."""
