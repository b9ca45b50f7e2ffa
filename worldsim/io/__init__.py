"""Files in and out: video."""
