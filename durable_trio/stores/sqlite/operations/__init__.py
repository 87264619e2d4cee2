"""The operations of the contract as SQL, by what they concern."""
