"""What a preference is: the pair table, its identities, and reading every format into it."""
