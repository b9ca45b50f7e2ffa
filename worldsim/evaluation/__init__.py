"""The evaluation protocol: the frozen test set, measurements on it, and statistics."""
