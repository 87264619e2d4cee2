"""What a code is: which functions and files the runs of a workflow go by, told by one short text.

It knows Python alone: no runs, no stores, and nothing that is installed.
"""

from durable_trio.code.fingerprint import Fingerprints, versions

__all__ = ["Fingerprints", "versions"]
