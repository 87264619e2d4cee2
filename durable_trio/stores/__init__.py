"""Stores: one contract, writes and reads as values, one async front (``writer``), one folder per implementation."""
