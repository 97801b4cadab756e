"""What products cost at the door: the catalogue, and how it asks Redis and PostgreSQL."""
