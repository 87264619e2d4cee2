"""The parts of ``scripts/day.py``: what is served, and how a day of it is lived through and judged."""
