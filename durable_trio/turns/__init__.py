"""The trio side of determinism: turns, quiet, barrier, detach.

A body runs only in turns, live and at replay alike: one committed row is delivered, then the run's tasks go on until
all of them are blocked (*quiet*), then the next row. So whatever the tasks of a body tell each other in memory, they
tell it in the same order each time.
"""
