"""Recordings: episodes, datasets on disk, and the recorder."""
