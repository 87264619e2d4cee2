"""What users test their workflows with: virtual time, and the contract that every store keeps."""

from durable_trio.testing.clock import VirtualClock

__all__ = ["VirtualClock"]
