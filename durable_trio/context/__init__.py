"""What a workflow body can call: steps, waits, saga."""
