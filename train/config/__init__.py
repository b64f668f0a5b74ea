"""Config: every setting of a user, composed by Hydra into one validated tree.

This room owns the dataclasses of all settings, the ranges of single values, and the composition of
configs/. It must not know what follows from a config: plan/ derives shapes, steps and run_ids.
Open schema.py first, then experiment.py (hashed into run_id) and runtime.py (not hashed).
"""
