"""What is read from the tables, by question."""
