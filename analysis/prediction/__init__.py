"""What the fitted laws say about a budget or a size that was not trained."""
