"""What to keep, and why: steps mark rows, the runner removes them and writes down the reason for each."""

from assay.verb import make_verb

make_verb(__name__, "assay.curate.runner:curate")
