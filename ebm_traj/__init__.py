"""Energy-based models of robot trajectories."""
