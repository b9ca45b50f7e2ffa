"""Places: painted from words, pictures or views, and saved as folders.

- ``place`` (start here): cameras of a place and their painting in groups.
- ``new_places``: places from prompts and pictures. ``pictures`` reads a user's pictures.
- ``folder``: the folder of a generated place, which is itself a scene.
"""
