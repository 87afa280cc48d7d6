"""Scores over HTTP: one process, one queue that batches by tokens, and the wire formats of the field on one port."""
