"""What a serving process needs before there is an engine: which one to serve, its logs, its last words."""
