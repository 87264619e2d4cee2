"""``python -m durable_trio``: the command line."""

from durable_trio.cli.program import main

if __name__ == "__main__":
    main()
