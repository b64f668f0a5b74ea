"""What questions the answer."""
