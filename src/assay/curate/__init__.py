"""What to keep, and why: steps mark rows, the runner removes them and writes down the reason for each."""
