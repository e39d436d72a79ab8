"""The calls of the API, a file each."""
