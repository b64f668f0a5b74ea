"""Approach 1: the lower hull of training curves."""
