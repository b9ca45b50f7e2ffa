"""Camera geometry: one place for poses, rays, projection and quantisation.

Conventions (everywhere in worldsim):

- ``pose``: camera-to-world 4x4 matrix, OpenCV axes (x right, y down, z forward), metres.
- ``intrinsics``: ``(fx, fy, cx, cy)`` in pixels; the centre of the top-left pixel is (0.5, 0.5).
- ``depth``: distance along the optical axis (z) in metres, ``inf`` where nothing is hit.
- ``motion``: a relative pose as six numbers, translation (m) then rotation vector (rad), of the new
camera
  expressed in the old camera's frame: ``pose_next = pose @ motion_to_matrix(motion)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

DEPTH_NEAR = 0.125
"""Smallest depth that the 16-bit inverse depth can hold, in metres."""
DEPTH_CODES = 65535
DEPTH_CHANNEL_SCALE = 4.0
"""Depth (m) that the network's depth channel maps to one half."""
FAR_CHANNEL = 0.02
"""Depth channels below this (about 200 m) are taken as infinitely far."""
TRANSLATION_STEP = 2.0**-12
ROTATION_STEP = 2.0**-14
ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of |R'R - 1| that a pose may have."""
TURN_METRES = 2.0
"""Metres that a radian counts when two poses are compared: at 90 degrees of view, what a radian
shifts out of sight is about what 2 m of walking does in a room."""


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras that share one image size.

    pose: (b, 4, 4) float, camera-to-world. intrinsics: (b, 4) float, ``fx fy cx cy`` in pixels.
    """

    pose: Tensor
    intrinsics: Tensor
    height: int
    width: int


def quantise_depth(depth: Tensor) -> Tensor:
    """Convert depth in metres to a 16-bit inverse-depth code; 0 is infinity.

    depth: any shape, ``inf`` allowed.

    Returns int32 in [0, 65535], of the same shape.
    """
    code = torch.round(DEPTH_CODES * DEPTH_NEAR / depth.clamp(min=DEPTH_NEAR))
    return code.to(torch.int32)


def dequantise_depth(code: Tensor) -> Tensor:
    """Convert a :func:`quantise_depth` code to float32 metres; code 0 becomes ``inf``."""
    return (DEPTH_CODES * DEPTH_NEAR) / code.to(torch.float32)


def code_to_channel(code: Tensor) -> Tensor:
    """Convert an inverse-depth code to the network's depth channel in [0, 1).

    It is ``s / (s + depth)``, 0 at infinity.
    """
    inverse = code.to(torch.float32) * (1.0 / (DEPTH_CODES * DEPTH_NEAR))
    scaled = DEPTH_CHANNEL_SCALE * inverse
    return scaled / (1.0 + scaled)


def channel_to_code(channel: Tensor) -> Tensor:
    """Convert a depth channel in [0, 1] to the inverse-depth code.

    Values under ``FAR_CHANNEL`` become infinity (0).
    """
    channel = channel.clamp(0.0, 0.999)
    inverse = channel / (1.0 - channel) / DEPTH_CHANNEL_SCALE
    code = torch.round(inverse * (DEPTH_CODES * DEPTH_NEAR)).clamp(0, DEPTH_CODES)
    return torch.where(channel < FAR_CHANNEL, torch.zeros_like(code), code).to(torch.int32)


def rotation_vector_to_matrix(vector: Tensor) -> Tensor:
    """Convert rotation vectors (..., 3) in radians to matrices (..., 3, 3) (Rodrigues)."""
    angle_squared = (vector * vector).sum(-1)
    angle = angle_squared.clamp(min=1e-24).sqrt()
    small = angle_squared < 1e-8
    sine = torch.where(small, 1.0 - angle_squared / 6.0, torch.sin(angle) / angle)
    cosine = torch.where(
        small, 0.5 - angle_squared / 24.0, (1.0 - torch.cos(angle)) / angle.square()
    )
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    outer = vector.unsqueeze(-1) * vector.unsqueeze(-2)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    skew_squared = outer - angle_squared[..., None, None] * identity
    return identity + sine[..., None, None] * skew + cosine[..., None, None] * skew_squared


def matrix_to_rotation_vector(rotation: Tensor) -> Tensor:
    """Invert :func:`rotation_vector_to_matrix`, through the quaternion.

    Converts (..., 3, 3) to (..., 3) with norm <= pi.
    """
    m = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    # Each row is the quaternion (w, x, y, z) times four times one of its parts; the largest part is
    # the safest.
    candidates = torch.stack(
        [
            torch.stack(
                [
                    1 + m[0][0] + m[1][1] + m[2][2],
                    m[2][1] - m[1][2],
                    m[0][2] - m[2][0],
                    m[1][0] - m[0][1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[2][1] - m[1][2],
                    1 + m[0][0] - m[1][1] - m[2][2],
                    m[0][1] + m[1][0],
                    m[0][2] + m[2][0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[0][2] - m[2][0],
                    m[0][1] + m[1][0],
                    1 - m[0][0] + m[1][1] - m[2][2],
                    m[1][2] + m[2][1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[1][0] - m[0][1],
                    m[0][2] + m[2][0],
                    m[1][2] + m[2][1],
                    1 - m[0][0] - m[1][1] + m[2][2],
                ],
                -1,
            ),
        ],
        -2,
    )
    best = torch.diagonal(candidates, dim1=-2, dim2=-1).argmax(-1)
    quaternion = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    norm = v.norm(dim=-1, keepdim=True)
    factor = torch.where(
        norm < 1e-6, torch.full_like(norm, 2.0), 2.0 * torch.atan2(norm, w) / norm.clamp(min=1e-12)
    )
    return v * factor


def motion_to_matrix(motion: Tensor) -> Tensor:
    """Convert motions (..., 6) to relative poses (..., 4, 4)."""
    matrix = torch.zeros(*motion.shape[:-1], 4, 4, dtype=motion.dtype, device=motion.device)
    matrix[..., :3, :3] = rotation_vector_to_matrix(motion[..., 3:])
    matrix[..., :3, 3] = motion[..., :3]
    matrix[..., 3, 3] = 1.0
    return matrix


def relative_motion(pose_from: Tensor, pose_to: Tensor) -> Tensor:
    """Return the motion (..., 6) from one pose to another, in the frame of the first.

    pose_from, pose_to: (..., 4, 4) camera-to-world, metres. Computed in float64.
    """
    a, b = pose_from.double(), pose_to.double()
    inverse = a[..., :3, :3].transpose(-1, -2)
    translation = (inverse @ (b[..., :3, 3] - a[..., :3, 3]).unsqueeze(-1)).squeeze(-1)
    rotation = matrix_to_rotation_vector(inverse @ b[..., :3, :3])
    return torch.cat([translation, rotation], -1).to(pose_from.dtype)


def snap_pose(pose: Tensor) -> Tensor:
    """Round a pose to 2^-12 m and 2^-14 rad (of its rotation vector), as worlds emit it.

    Returns (..., 4, 4) float32.
    """
    pose = pose.double()
    rotation = (
        torch.round(matrix_to_rotation_vector(pose[..., :3, :3]) / ROTATION_STEP) * ROTATION_STEP
    )
    translation = torch.round(pose[..., :3, 3] / TRANSLATION_STEP) * TRANSLATION_STEP
    return motion_to_matrix(torch.cat([translation, rotation], -1)).float()


def check_poses(pose: object, name: str = "pose") -> None:
    """Raise InvalidInputError unless all are camera-to-world poses in OpenCV axes.

    A pose is finite, its rotation is orthonormal (to 1e-3) and right-handed, its last row is 0 0 0
    1. The error names the first wrong pose.

    pose: (t, 4, 4) tensor or array.
    """
    pose = torch.as_tensor(pose).double()
    rotation = pose[:, :3, :3]
    skewed = (rotation.transpose(1, 2) @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax(
        (1, 2)
    ) > ORTHONORMAL_TOLERANCE
    complaints = (
        (~pose.isfinite().all((1, 2)), "holds numbers that are NaN or infinite"),
        (skewed, "has a rotation that is not orthonormal"),
        (torch.linalg.det(rotation) < 0, "mirrors: its rotation has determinant -1"),
        (
            (pose[:, 3] != torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).any(1),
            "does not end with the row 0 0 0 1",
        ),
    )
    for bad, complaint in complaints:
        if bool(bad.any()):
            i = int(bad.int().argmax())
            raise InvalidInputError(
                f"{name}[{i}] {complaint}; camera-to-world in OpenCV axes is needed, got "
                f"{pose[i].tolist()}."
            )


def move(pose: Tensor, motion: Tensor) -> Tensor:
    """Apply ``motion`` (b, 6) to ``pose`` (b, 4, 4) and snap the result; returns float32."""
    return snap_pose(pose.double() @ motion_to_matrix(motion.double()))


def pixel_rays(intrinsics: Tensor, height: int, width: int, stride: int = 1) -> Tensor:
    """Return directions with z = 1 in the camera's frame, through the centres of cells.

    intrinsics: (b, 4) pixels.
    stride: side length of a cell, pixels.

    Returns (b, 3, height / stride, width / stride).
    """
    device = intrinsics.device
    u = (torch.arange(width // stride, device=device, dtype=torch.float32) + 0.5) * stride
    v = (torch.arange(height // stride, device=device, dtype=torch.float32) + 0.5) * stride
    fx, fy, cx, cy = intrinsics.float().unbind(-1)
    x = (u - cx[:, None]) / fx[:, None]
    y = (v - cy[:, None]) / fy[:, None]
    b, h, w = len(intrinsics), len(v), len(u)
    x = x[:, None, :].expand(b, h, w)
    y = y[:, :, None].expand(b, h, w)
    return torch.stack([x, y, torch.ones_like(x)], 1)


def pluecker_rays(
    motion: Tensor, intrinsics: Tensor, height: int, width: int, stride: int = 1
) -> Tensor:
    """Return Pluecker coordinates (o x d, d) of rays in the *previous* frame's camera.

    As in Sitzmann et al. 2021.

    motion: (b, 6), from the previous camera to this one.

    Returns (b, 6, h / stride, w / stride), d of unit length.
    """
    d = pixel_rays(intrinsics, height, width, stride)
    d = d / d.norm(dim=1, keepdim=True)
    rotation = rotation_vector_to_matrix(motion[:, 3:].float())
    # Written out: under autocast a matrix product would round the rays to bfloat16.
    d = (rotation[:, :, :, None, None] * d[:, None]).sum(2)
    origin = motion[:, :3].float()[:, :, None, None].expand_as(d)
    return torch.cat([torch.linalg.cross(origin, d, dim=1), d], 1)


def unproject(depth: Tensor, camera: Camera) -> Tensor:
    """Return the world points (b, h, w, 3) of a depth map (b, h, w) in metres.

    Infinite depths give unit-z *directions* in world axes.
    """
    rays = pixel_rays(camera.intrinsics, camera.height, camera.width).permute(0, 2, 3, 1)
    finite = torch.isfinite(depth)
    local = rays * torch.where(finite, depth, torch.ones_like(depth)).unsqueeze(-1)
    rotation, translation = camera.pose[:, :3, :3].float(), camera.pose[:, :3, 3].float()
    x, y, z = local.unbind(-1)
    # Written out: a matrix product may round differently for other batch sizes, and forks must
    # agree bit by bit.
    r = rotation[..., None, None]
    world = torch.stack([r[:, i, 0] * x + r[:, i, 1] * y + r[:, i, 2] * z for i in range(3)], -1)
    return torch.where(finite.unsqueeze(-1), world + translation[:, None, None, :], world)


def project(points: Tensor, is_direction: Tensor, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Project world points (b, n, 3) to pixel coordinates u, v and depth z, each (b, n).

    is_direction: (b, n) bool, points that are directions (homogeneous w = 0): only the rotation
        applies.

    u and v are meaningless where z <= 0.
    """
    rotation, translation = camera.pose[:, :3, :3].float(), camera.pose[:, :3, 3].float()
    offset = torch.where(
        is_direction.unsqueeze(-1), torch.zeros_like(points), translation[:, None, :]
    )
    x, y, z = (points - offset).unbind(-1)
    cx_, cy_, cz_ = (
        rotation[:, 0, i, None] * x + rotation[:, 1, i, None] * y + rotation[:, 2, i, None] * z
        for i in range(3)
    )
    fx, fy, cx, cy = camera.intrinsics.float().unbind(-1)
    safe = torch.where(cz_ > 1e-6, cz_, torch.ones_like(cz_))
    return fx[:, None] * cx_ / safe + cx[:, None], fy[:, None] * cy_ / safe + cy[:, None], cz_


def default_intrinsics(
    height: int, width: int, horizontal_fov_deg: float = 90.0
) -> tuple[float, float, float, float]:
    """Return the intrinsics of a centred pinhole camera with square pixels and this field of view.

    horizontal_fov_deg: degrees.
    """
    fx = (
        0.5
        * width
        / float(torch.tan(torch.deg2rad(torch.tensor(horizontal_fov_deg / 2, dtype=torch.float64))))
    )
    return fx, fx, 0.5 * width, 0.5 * height


def rotation_angle(pose_from: Tensor, pose_to: Tensor) -> Tensor:
    """Return the angle between the orientations of two cameras, in radians in [0, pi].

    pose_from, pose_to: (..., 4, 4), broadcast.
    """
    a, b = torch.broadcast_tensors(pose_from, pose_to)
    return relative_motion(a, b)[..., 3:].norm(dim=-1)


def nearest_pose(pose: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the nearest candidate pose.

    The distance is |translation| + 2 m x |rotation in radians|.

    pose: (..., 4, 4).
    candidates: (k, 4, 4).

    Returns (...) int64.
    """
    pose = pose.unsqueeze(-3)
    distance = (pose[..., :3, 3] - candidates[..., :3, 3]).norm(dim=-1)
    return (distance + TURN_METRES * rotation_angle(pose, candidates)).argmin(-1)
