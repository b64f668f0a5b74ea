"""Approach 3: a surface L(N, D) fitted to all runs, certified."""
