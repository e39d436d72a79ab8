"""Adds committed batches to the hourly and daily rollups, exactly once; keeps the tables in shape."""
