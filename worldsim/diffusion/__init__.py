"""Action-conditioned video diffusion: the dynamics of a world."""
