"""From pairs to a reward model. Only ``assay.train.config`` can be imported without PyTorch."""

from assay.verb import make_verb

make_verb(__name__, "assay.train.train:train")
