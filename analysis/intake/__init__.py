"""Where runs come from, and what makes them usable: tables, study folders, W&B."""
