"""The ingestor: from usage events in the queue to rows in PostgreSQL, each once."""
