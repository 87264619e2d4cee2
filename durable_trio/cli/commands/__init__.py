"""One file for each command; ``program.COMMANDS`` names them."""
