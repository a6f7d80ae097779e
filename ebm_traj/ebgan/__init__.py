"""Energy-based generative adversarial networks: the energy is an auto-encoder, trained against a generator."""
