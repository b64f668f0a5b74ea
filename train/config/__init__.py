"""Config: what a user can set, and how the words of a command become one validated tree.

This room owns the dataclasses of every setting, the rules of single values, and Hydra's composition
of configs/. It must not know what a config comes to: shapes, steps and run_ids are made in plan/.
Open schema.py first, then experiment.py (hashed into run_id) and runtime.py (not hashed).
"""
