"""The services of an engine, one file each; the tree in ``engine.tree`` says who runs under whom."""
