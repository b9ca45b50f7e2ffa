"""Files of other programs, in and out: RGB-D captures, meshes, nerfstudio datasets, pictures and
videos."""
