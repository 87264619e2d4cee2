"""The durable calls, one file a kind: what each does when it goes live, and how it ends."""
