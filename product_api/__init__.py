"""CRUD on products: writes hold the row's lock, reads go through a fenced cache, every change is an event."""
