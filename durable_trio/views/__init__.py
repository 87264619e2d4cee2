"""Read models for the command line and the web: what a person is shown, as values."""
