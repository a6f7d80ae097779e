"""Energies of images, and what they do: generate, complete, morph, detect, classify, compose, learn on."""
