"""The basis of planners: objectives, imagined walks, the walkable ground, and localisation."""
