"""Start scene from one picture, whose depth a pretrained world estimates itself.

A world of pretrained models has a depth estimator, so a picture is all that it needs::

    env = gym.make("worldsim/PretrainedDream-v0", scenes="picture:photo.png", ...)

For other worlds, :class:`worldsim.scenes.image.ImageScene` takes a depth map, and
``worldsim generate --image`` lets a painter complete the place.
"""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property

import numpy as np
import torch

from worldsim.camera import snap_pose
from worldsim.errors import InvalidInputError
from worldsim.painting.depth import (
    align_inverse_depth,
    inverse_depth_to_code,
    relative_inverse_depth,
)
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.runtime.types import Array
from worldsim.scenes.image import LEVEL, ImageScene
from worldsim.state import SceneStart
from worldsim.world import World


class PictureScene:
    """Scene that starts from one picture, seen by a level camera.

    image: path of a PNG, WebP, JPEG, TIFF or BMP file, or an array (h, w, 3) uint8. It is cropped
        around its centre to the world's camera.
    world: the world that estimates its depth. Environments set it with :meth:`fit_to`.

    Raises NotFoundError, DamagedFileError or InvalidInputError for the picture.
    """

    def __init__(self, image: str | os.PathLike[str] | Array, world: World | None = None) -> None:
        self.image, self.world = ImageScene(image), world

    def fit_to(self, world: World) -> PictureScene:
        """Return the same scene for ``world``.

        Raises InvalidInputError for a world without a depth estimator.
        """
        if not isinstance(world.dynamics, PretrainedDynamics):
            raise InvalidInputError(
                "this world has no depth estimator, so a picture is not enough: give its depth "
                "(worldsim.scenes.image.ImageScene), or paint a place from it (worldsim generate "
                "--image)"
            )
        return PictureScene(self.image.rgb, world)

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start. ``rng`` is not used: there is only one."""
        return self.scene

    @cached_property
    def scene(self) -> SceneStart:
        """The start, whose depth is estimated on first access."""
        if self.world is None:
            raise InvalidInputError("a picture's depth is estimated by a world: call fit_to first")
        dynamics = self.world.dynamics
        flat = self.image.fit_to(self.world).scene
        relative = relative_inverse_depth(dynamics.depth, flat.rgb)
        unknown = torch.zeros_like(relative)
        aligned = align_inverse_depth(relative, unknown, unknown.bool(), dynamics.config.align)
        return dataclasses.replace(
            flat,
            inverse_depth=inverse_depth_to_code(aligned),
            pose=snap_pose(torch.as_tensor(LEVEL)[None]),
        )
