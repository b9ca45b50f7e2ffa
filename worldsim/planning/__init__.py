"""What planners share: objectives, imagined walks, the ground to walk on, and finding a place
again."""
