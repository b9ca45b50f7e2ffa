"""Recordings: episodes, the datasets that hold them on disk, and the recorder that fills them."""
