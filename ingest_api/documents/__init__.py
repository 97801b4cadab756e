"""What ingest_api promises its clients: its operations, OpenAPI and AsyncAPI."""
