"""The painter: completes partial views of a place into RGB-D frames of N cameras jointly."""
