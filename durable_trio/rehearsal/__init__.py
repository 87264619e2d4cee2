"""Rehearsal: unfinished runs are replayed by code that is not deployed yet, to learn which of them it would refuse.

There is no second replayer. A rehearsed run is the engine's own actor, which is given three things of its own: a port
that writes nothing (``mute``), a keeper that notes a verdict where another one refuses, ends or keeps a run
(``actor``), and what is stored of it without its mail and its time to live: what these would bring is recorded first.
"""
