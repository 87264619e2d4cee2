"""What a code is: which functions and files the runs of a workflow go by, told by one short text.

It knows no runs and no stores, and of what is installed only the version of this library.
"""

from durable_trio.code.fingerprint import Fingerprints, versions

__all__ = ["Fingerprints", "versions"]
