"""Worker processes: ``parent`` says what they are started as and watches them, ``__main__`` is what runs in them.

``family`` says which code they serve, and ``reloads`` brings other code; ``requests`` is how it is asked for that,
``probe`` and ``rehearsing`` are how it looks at that code before.
"""
