"""Resident runs: the service that keeps them, and one run from its coming to its end."""
