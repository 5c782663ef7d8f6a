"""Search under the parameter budget: sweeps, and students taught by a run."""
