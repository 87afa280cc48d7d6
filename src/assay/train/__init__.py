"""From pairs to a reward model. Only ``assay.train.config`` can be imported without PyTorch."""
