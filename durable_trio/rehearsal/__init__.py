"""Rehearsal: unfinished runs are replayed by code that is not deployed yet, to learn which of them it would refuse.

There is no second replayer. A rehearsed run is the engine's own actor, which comes to a verdict where another one would
be refused, end or go on (``judging``). It is given three things: a port that writes nothing (``mute``), a keeper for
whom nothing ever comes to anything (``keeping``), and what is stored of it without its mail and its time to live: what
these would bring is recorded first.
"""
