"""Parts that planners share: objectives, imagined walks, maps of the ground, locating a picture."""
