"""The engine: a facade, and one file per service of its tree."""
