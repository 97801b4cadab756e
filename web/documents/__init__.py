"""What the documents of an API show: OpenAPI, JSON schemas, /docs and the pages of the problems."""
