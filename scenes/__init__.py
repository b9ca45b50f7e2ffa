"""Scenes: what a reset of a world starts from, one kind per file."""
