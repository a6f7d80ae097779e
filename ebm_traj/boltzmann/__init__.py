"""Boltzmann machines: general, restricted and stacked; Gibbs sampling, contrastive divergence, AIS."""
