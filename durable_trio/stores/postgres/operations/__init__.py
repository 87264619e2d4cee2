"""Rarer operations, as statements of their own within a transaction."""
