"""What a reward model is worth: suites with their official rules, intervals, and the baselines beside every figure."""

from assay.verb import make_verb

make_verb(__name__, "assay.evaluate.evaluate:evaluate")
