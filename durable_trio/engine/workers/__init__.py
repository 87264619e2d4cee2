"""Worker processes: ``parent`` says what they are started as and watches them, ``__main__`` is what runs in them."""
