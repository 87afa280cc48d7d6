"""Assay: reward models end to end. Curate preference data, train, measure and use, with one score everywhere."""

__version__ = "0.1.0"
