"""trio as the guest of another event loop: ``driver`` for any host, ``bridges`` and what stands on it for asyncio."""
