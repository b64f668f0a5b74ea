"""The best learning rate and batch of every size and horizon, and their laws."""
