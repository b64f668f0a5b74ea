"""Stands in for rich on a machine without it: what train says on the way, as plain lines."""
