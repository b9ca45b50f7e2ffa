"""Gymnasium environments: generated worlds and their real twins, one file each."""
