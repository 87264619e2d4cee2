"""The demonstration: a real tree is mirrored and orders are checked out while the serving process is killed.

Five processes take part. Read ``workflows.py`` first; it is all that a user of the library would write.

- ``__main__.py`` and ``director.py``: the one you start. It starts the others (``children.py``, ``incarnations.py``),
  kills ``serving``, and is a *client* of the engine (``show.py``): it starts runs, sends signals, and executes nothing.
- ``serving.py``: ``trio.run(engine.serve)`` with ``workflows.py``; the process that is killed.
- ``services.py``: the world outside: an object store (``object_store.py``) and a shop's payments and parcels
  (``shop.py``), over HTTP (``tiny_http.py``; its clients are in ``outside.py``). They keep logs of their own.
- ``checker.py``: reads the database with plain SQL (``ledger.py``), and the logs, and says whether all that was
  promised holds.
- ``plan.py`` says beforehand what there is to do, ``trace.py`` notes what the serving processes did.

With ``--store postgres`` several machines do the same on one server. In place of ``director.py`` there is then
``troubles.py``: it kills machines, cuts them off, and has the server crash. ``network.py`` makes the machines and their
cables, ``database.py`` the server.
"""
