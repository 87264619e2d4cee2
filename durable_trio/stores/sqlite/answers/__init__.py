"""The answers to the questions of the contract, as SQL. Each is of one instant, on a connection of its own."""
