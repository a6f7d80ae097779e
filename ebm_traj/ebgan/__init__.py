"""Energy-based generative adversarial networks: the energy is an auto-encoder against a generator."""
