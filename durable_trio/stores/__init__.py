"""Stores: one contract (``base``), one async front (``front``), one folder per implementation."""
