"""The evaluation protocol in parts: the frozen test set, what is measured on it, and the figures
with their intervals."""
