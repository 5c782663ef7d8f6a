"""Metrics, figures, the evaluation of a run and its model card."""
