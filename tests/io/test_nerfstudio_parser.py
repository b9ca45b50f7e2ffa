"""nerfstudio's own parser on what is written for it. Runs in an environment with little else than
nerfstudio."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from worldsim.envs.tiny_room import walk_in_room
from worldsim.io.nerfstudio import save_nerfstudio


@pytest.mark.nerf
def test_nerfstudio_reads_it(tmp_path: Path):
    """Its own parser gives our cameras, pictures, depth scale and points."""
    parsers = pytest.importorskip(
        "nerfstudio.data.dataparsers.nerfstudio_dataparser", reason="nerfstudio is not installed"
    )
    has_open3d = importlib.util.find_spec("open3d") is not None
    room, trajectory = walk_in_room()
    dataset = save_nerfstudio(trajectory, tmp_path / "room")
    config = parsers.NerfstudioDataParserConfig(
        data=dataset,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        eval_mode="all",
        load_3D_points=has_open3d,
    )
    parsed = config.setup().get_dataparser_outputs(split="train")
    assert len(parsed.image_filenames) == 80
    opencv = parsed.cameras.camera_to_worlds.numpy() * np.array([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(opencv, trajectory.pose[:, :3].numpy(), atol=1e-5)
    np.testing.assert_allclose(parsed.cameras.fx.numpy(), 32.0)
    np.testing.assert_allclose(parsed.cameras.cy.numpy(), 32.0)
    assert (
        parsed.metadata["depth_unit_scale_factor"] == 0.001
        and len(parsed.metadata["depth_filenames"]) == 80
    )
    extent = room._extent
    if has_open3d:
        points = parsed.metadata["points3D_xyz"].numpy()
        assert (
            len(points) > 10_000 and points.min() > -0.02 and (points.max(0) < extent + 0.02).all()
        )
    # Its rays through pixel centres, times our depth, end on the walls.
    rays = parsed.cameras.generate_rays(camera_indices=5, keep_shape=True)
    along = rays.metadata["directions_norm"].numpy()
    ends = (
        rays.origins.numpy()
        + rays.directions.numpy() * along * trajectory.depth[5].numpy()[..., None]
    )
    wall = np.minimum(np.abs(ends), np.abs(ends - extent)).min(-1)
    pillar = np.abs(np.abs(ends[..., :2] - room._pillar).max(-1) - room._pillar_half)
    assert np.minimum(wall, pillar).max() < 0.01
