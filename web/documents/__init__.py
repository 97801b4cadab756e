"""The documents of an API: OpenAPI, JSON schemas, /docs and the pages of the problems."""
