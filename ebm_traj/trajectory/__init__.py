"""Models over windows of robot states, their training, and the rollout that acts on their samples."""
