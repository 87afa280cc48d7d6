"""Anything that gives an answer a number: the Scorer protocol, one file a kind, and the batching they share."""
