"""The network: small real backbones, checkpoints, and the contract by which every loader gets the same score."""
