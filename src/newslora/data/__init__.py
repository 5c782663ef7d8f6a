"""Articles: tables, cleaning, splits, tokens and batches."""
