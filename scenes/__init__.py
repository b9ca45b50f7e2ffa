"""Ways to start a world: one file each."""
