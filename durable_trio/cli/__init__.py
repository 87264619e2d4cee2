"""The command line: ``durable-trio``, also ``python -m durable_trio``.

It knows the public API and the read models, and no workflow's code: arguments and results are shown as the JSON that
is stored. A command is a file in ``commands``; ``program`` finds it by name and imports nothing else before it is
asked for. What a command prints is made by pure functions (``table``, ``timeline``) of records, an instant and a
``Screen``; with ``--json`` it is one of ``documents``.
"""
