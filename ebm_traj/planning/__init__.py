"""Plans from models: composed energies, planners, baselines, and the energy as a monitor."""
