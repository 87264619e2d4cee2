"""Stores: one contract, writes and reads as values, one async side (``writer``), one folder per implementation."""
