"""Durable execution for trio: workflows that survive ``kill -9``, on one SQLite file.

The names stand in ``public_names``, which is imported when the first of them is asked for (PEP 562): whoever needs
less, as the command line does for its help, is not made to import trio and SQLite. From then on they are attributes
like any other.

No module of this package may have the name of something that ``public_names`` gives: importing it would take that
one's place.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_trio.public_names import *  # noqa: F403  # the names are checked where they stand
    from durable_trio.public_names import __all__ as __all__
else:  # not for type checkers: they would believe in every name

    def __getattr__(name: str) -> Any:
        import sys
        from importlib import import_module
        from importlib.util import find_spec

        if not name.startswith("__") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        if not name.startswith("__") or name == "__all__":
            names = import_module(f"{__name__}.public_names")
            globals().update({public: getattr(names, public) for public in names.__all__}, __all__=names.__all__)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
