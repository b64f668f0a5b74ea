"""Approach 2: the minimum over sizes at each compute budget, and the laws through the minima."""
