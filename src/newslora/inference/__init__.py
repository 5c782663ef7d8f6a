"""Loading a run and predicting with it."""
