"""Cuts: one question (shared.cut.Cut) read from a query, answered from the rollups, as JSON or CSV."""
