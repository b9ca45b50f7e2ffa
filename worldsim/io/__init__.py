"""Files of other programs: RGB-D captures, meshes, nerfstudio datasets, pictures and videos."""
