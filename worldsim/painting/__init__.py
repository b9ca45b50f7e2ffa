"""The painter: completes partial views of a place into whole RGB-D frames of N cameras at once."""
