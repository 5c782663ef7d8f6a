"""The loop: optimiser, schedule, checkpoints, progress and the run folder."""
