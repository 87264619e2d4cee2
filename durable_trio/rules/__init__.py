"""Pure decisions: no trio, no SQL, no clock (``now`` is an argument)."""
