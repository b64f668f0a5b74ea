"""Hydra groups as a package, so that a search path can name them: pkg://configs."""
