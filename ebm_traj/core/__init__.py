"""Energy-based learning: energies, samplers, replay, objectives, trainer. Knows nothing of robots or files of data."""
