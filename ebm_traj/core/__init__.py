"""Energy-based learning: energies, samplers, replay, objectives, trainer; it knows nothing of robots."""
