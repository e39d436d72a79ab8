"""One usage event: its schema, how it is decoded, what can be wrong with it, and the texts in it."""
