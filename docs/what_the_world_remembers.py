"""Runs every step of docs/what_the_world_remembers.md in order, prints its numbers and draws its
pictures.

The page quotes the steps below; tests/docs/test_tutorial.py holds it to that.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import trimesh
import tyro
from PIL import Image
from torch import Tensor

import worldsim  # noqa: F401
from worldsim.evaluation.metrics import psnr
from worldsim.io.meshes import fuse, save_glb
from worldsim.io.nerfstudio import save_nerfstudio
from worldsim.io.pictures import contact_sheet, enlarge, holes_marked, save_picture
from worldsim.memory import PointMemory, PointMemoryConfig, RadianceMemory
from worldsim.scenes.capture import CaptureScene
from worldsim.state import Frame
from worldsim.world import World

FORWARD, BACKWARD, LEFT, RIGHT, STRAFE_LEFT, STRAFE_RIGHT = range(1, 7)
UNDO = {
    FORWARD: BACKWARD,
    LEFT: RIGHT,
    STRAFE_LEFT: STRAFE_RIGHT,
    BACKWARD: FORWARD,
    RIGHT: LEFT,
    STRAFE_RIGHT: STRAFE_LEFT,
}
SIDE = 192


@dataclass(frozen=True)
class Config:
    """Settings of the tutorial."""

    world: str = "freedoom-tiny"
    """A shipped world's name, or a folder."""
    scene: str = "MAP28-5"
    """The start scene, one of the world's."""
    out: Path = Path("docs/images/memory")
    """Folder for the pictures."""
    folder: Path = Path("out/tutorial")
    """Folder for what the steps save and export."""
    seed: int = 0
    """Of the dream."""


def picture(frame: Frame | Tensor, side: int = SIDE) -> Any:
    """(h, w, 3) of a frame or of colours (1, 3, h, w), enlarged to ``side``."""
    rgb = frame.rgb if isinstance(frame, Frame) else frame
    rgb = rgb[0].permute(1, 2, 0).numpy()
    return enlarge(rgb, side // len(rgb))


def fitted(rgb: Any) -> Any:
    """Any picture in a square of SIDE, on black."""
    image = Image.fromarray(rgb)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(square)


def save(config: Config, name: str, rows: dict[str, Any], columns: list[str]) -> None:
    """A contact sheet in 96 colours: pictures of a page must be small."""
    sheet = contact_sheet(rows, columns, scale=1)
    few = Image.fromarray(sheet).quantize(96, dither=Image.Dither.NONE).convert("RGB")
    save_picture(np.asarray(few), config.out / f"{name}.webp")
    print(f"{name}.webp: {(config.out / f'{name}.webp').stat().st_size / 1000:.0f} KB", flush=True)


def come_back(config: Config, world: World) -> Any:
    """Step 1: walk away and come back."""
    scene, seed = config.scene, config.seed

    env = gym.make("worldsim/FreedoomDream-v0", world=world)
    dream = env.unwrapped
    env.reset(seed=seed, options={"scene": scene})
    way = [LEFT] * 9 + [FORWARD] * 3
    seen = [dream.state.frame]  # the start scene's last frame is a true one
    for act in way:
        env.step(act)
        seen.append(dream.state.frame)

    def way_back(world, state):
        frames = [state.frame]
        for act, frame in zip(reversed(way), reversed(seen[:-1]), strict=True):
            state, _ = world.step(state, torch.tensor([UNDO[act]]), frame.pose)
            frames.append(state.frame)
        return frames[::-1]  # frames[k] is at the pose of seen[k]

    remembered = way_back(dream.world, dream.state)
    forgotten = way_back(dream.world.without_memory(), dataclasses.replace(dream.state, memory=()))

    shown = [0, 2, 4, 12]
    score = [
        (float(psnr(seen[k].rgb, remembered[k].rgb)), float(psnr(seen[k].rgb, forgotten[k].rgb)))
        for k in shown
    ]
    for k, (on, off) in zip(shown, score, strict=True):
        print(f"place {k}: with memory {on:.1f} dB, without {off:.1f} dB, against the first sight")
    rows = {"first\nsight": seen, "back,\nmemory": remembered, "back,\nno\nmemory": forgotten}
    names = ["start (true)", *(f"step {k}" for k in shown[1:-1]), "turning point"]
    captions = [
        f"{name}\n{on:.1f} | {off:.1f} dB" for name, (on, off) in zip(names, score, strict=True)
    ]
    captions[-1] = names[-1]
    save(
        config,
        "return",
        {name: [picture(frames[k], 192) for k in shown] for name, frames in rows.items()},
        captions,
    )
    return env


def look(config: Config, env: Any) -> None:
    """Step 2: the memory as an object."""
    dream, seed, scene = env.unwrapped, config.seed, config.scene

    env.reset(seed=seed, options={"scene": scene})
    for act in [LEFT] * 4 + [RIGHT] * 8 + [LEFT] * 4:  # look to both sides
        env.step(act)

    memory = dream.memory
    here = memory.render(size=(512, 512))  # from the agent's pose

    above = memory.pose.clone()  # (4, 4) camera-to-world, z is up
    above[:3, 3] -= 1.0 * above[:3, 2]  # one metre back,
    above[2, 3] += 0.5  # half a metre up,
    tilt = torch.tensor([[1, 0, 0], [0, 0.94, 0.34], [0, -0.34, 0.94]])
    above[:3, :3] = above[:3, :3] @ tilt  # and 20 degrees down
    there = memory.render(above, size=(512, 512))

    plan = memory.top_down(resolution=0.05, reach=6.0)
    grid = memory.occupancy(voxel=0.1, reach=6.0, trajectory=dream.trajectory)
    print(memory.statistics())

    print(
        f"holes: here {100 - 100 * here.mask.mean():.1f}%, above "
        f"{100 - 100 * there.mask.mean():.1f}%"
    )
    shares = {name: 100 * getattr(grid, name).mean() for name in ("occupied", "free", "unknown")}
    print("voxels: " + ", ".join(f"{name} {share:.1f}%" for name, share in shares.items()))
    normals = np.where(here.mask[..., None], (127.5 * here.normals + 127.5), 0).astype(np.uint8)
    level = int((float(memory.pose[2, 3]) - grid.origin[2]) / grid.voxel)
    floor = np.full((*grid.occupied.shape[:2], 3), 40, np.uint8)
    floor[grid.free[:, :, level]], floor[grid.occupied[:, :, level]] = (
        (90, 130, 170),
        (250, 220, 120),
    )
    column, row = (int(n) for n in plan.pixels(memory.pose[:2, 3]))
    chart = plan.rgb.copy()
    chart[max(0, row - 5) : row + 5, max(0, column - 5) : column + 5] = (255, 0, 255)
    shown = [holes_marked(here.rgb, here.mask), holes_marked(there.rgb, there.mask), normals, chart]
    x, y, _ = grid.index(memory.pose[:3, 3].numpy())
    floor[x - 2 : x + 3, y - 2 : y + 3] = (255, 0, 255)
    slice_ = Image.fromarray(floor.transpose(1, 0, 2)[::-1].copy())
    shown.append(
        np.asarray(
            slice_.resize(
                [n * SIDE // max(slice_.size) for n in slice_.size], Image.Resampling.NEAREST
            )
        )
    )
    tiles = [fitted(x) for x in shown]
    names = ["newest frame", "memory,\nsame pose", "from behind\nand above"]
    save(config, "look", {"": [picture(dream.state.frame), *tiles[:2]]}, names)
    save(config, "maps", {"": tiles[2:]}, ["normals", "top_down()", "occupancy(),\na slice"])


def edit(config: Config, env: Any) -> None:
    """Step 3: put a thing in, and take it away."""
    dream = env.unwrapped
    shots = [dream.state.frame]

    crate = trimesh.creation.box((0.8, 0.8, 0.8))
    crate.visual.face_colors = [240, 130, 20, 255]
    place = dream.memory.pose.clone()
    place[:3, 3] += 2.5 * place[:3, 2]  # 2.5 m along the camera's z axis,
    place[2, 3] -= 0.88  # on the floor, 1.28 m below the camera
    dream.edit(dream.memory.paste(crate, place))

    def go(acts):
        for act in acts:
            env.step(act)
        return dream.state.frame

    here, pasted = dream.snapshot(), dream.state.frame
    right = go([STRAFE_RIGHT] * 3 + [LEFT] * 2)
    dream.restore(here)
    left = go([STRAFE_LEFT] * 3 + [RIGHT] * 2)
    dream.restore(here)
    away = go([LEFT] * 9)
    again = go([RIGHT] * 9)

    box = (
        (-0.5, -0.7, -0.5),
        (0.5, 0.42, 1.0),
    )  # two corners in the axes of `place`, with some room behind
    dream.edit(dream.memory.recolour(box, (30, 60, 230), place))
    blue = go([0, 0])
    dream.edit(dream.memory.remove(box, place))
    gone = go([0, 0])

    shots += [pasted, right, left, away, again, blue, gone]
    names = [
        "before",
        "pasted",
        "from the right",
        "from the left",
        "looked away",
        "looked back",
        "blue",
        "removed",
    ]
    half = [picture(frame, 128) for frame in shots]
    save(
        config,
        "edit",
        {"": half},
        [name.replace(" ", "\n", 1) if " " in name else name for name in names],
    )


def keep(config: Config, env: Any) -> None:
    """Step 4: save, and go on in another process."""
    dream, world, folder = env.unwrapped, config.world, config.folder

    path = dream.save(folder / "walk.safetensors")
    program = [
        "import sys, gymnasium as gym, numpy as np, worldsim",
        "world, path, out = sys.argv[1:]",
        "later = gym.make('worldsim/Dream-v0', world=world).unwrapped",
        "later.load(path)",
        "np.save(out, np.stack([later.step(act)[0] for act in (3, 3, 1, 1, 4, 1)]))",
    ]
    subprocess.run(
        [sys.executable, "-c", "\n".join(program), world, path, folder / "there.npy"], check=True
    )
    there = np.load(folder / "there.npy")
    here = np.stack([env.step(act)[0] for act in (3, 3, 1, 1, 4, 1)])
    print("equal bit by bit:", np.array_equal(here, there))

    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {len(dream.trajectory)} frames of the "
        f"walk before the save and after"
    )
    rows = {
        name: [enlarge(frames[t], 2) for t in (0, 1, 3, 5)]
        for name, frames in (("here", here), ("there", there))
    }
    save(config, "saved", rows, ["step 1", "step 2", "step 4", "step 6"])


def export(config: Config, env: Any) -> None:
    """Step 5: out as points, mesh and dataset; and the dataset in again."""
    dream, world, folder = env.unwrapped, config.world, config.folder

    memory, trajectory = dream.memory, dream.trajectory
    memory.to_ply(folder / "points.ply")
    mesh = fuse(trajectory)  # needs Open3D: pip install '.[open3d]'
    save_glb(mesh, folder / "mesh.glb")
    save_nerfstudio(trajectory, folder / "capture", force=True)

    later = gym.make("worldsim/Dream-v0", world=world, scenes=CaptureScene(folder / "capture"))
    first, info = later.reset(seed=1)
    onward = [later.step(act) for act in [LEFT] * 8]

    known = [info["memory_coverage"] for *_, info in onward]
    print(
        f"mesh: {len(mesh.faces):,} triangles; {len(memory.points()):,} points; {len(trajectory)} "
        f"frames"
    )
    print(
        "the imported start equals the last frame:",
        np.array_equal(first, trajectory.rgb[-1].permute(1, 2, 0).numpy()),
    )
    print(
        f"after the import the memory knew {100 * min(known):.0f}% to {100 * max(known):.0f}% of "
        f"each frame"
    )
    camera, turned = memory.camera(size=(SIDE, SIDE)), memory.pose.clone()
    turned[:3, 3] -= 2.0 * turned[:3, 2]
    turned[2, 3] += 0.5
    shown = [
        enlarge(trajectory.rgb[-1].permute(1, 2, 0).numpy(), SIDE // 64),
        seen_mesh(mesh, camera),
        seen_mesh(mesh, memory.camera(turned, (SIDE, SIDE))),
        enlarge(first, SIDE // 64),
        enlarge(onward[3][0], SIDE // 64),
        enlarge(onward[7][0], SIDE // 64),
    ]
    save(
        config,
        "export",
        {"": shown},
        [
            "last frame",
            "mesh,\nsame camera",
            "mesh,\nfrom behind",
            "imported:\nthe start",
            "4 steps\nfurther",
            "8 steps\nfurther",
        ],
    )


def seen_mesh(mesh: Any, camera: Any) -> Any:
    """A mesh at a camera (h, w, 3): Open3D casts a ray a pixel; black where there is nothing."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    world_to_camera = np.linalg.inv(camera.pose[0].double().numpy())
    hit = scene.cast_rays(
        scene.create_rays_pinhole(matrix, world_to_camera, camera.width, camera.height)
    )
    triangle, uv = hit["primitive_ids"].numpy(), hit["primitive_uvs"].numpy()
    found = triangle < len(mesh.faces)
    corners = mesh.visual.vertex_colors[mesh.faces[np.where(found, triangle, 0)], :3].astype(
        np.float64
    )
    weight = np.stack([1 - uv.sum(-1), uv[..., 0], uv[..., 1]], -1)
    return (
        np.where(found[..., None], (corners * weight[..., None]).sum(-2), 0)
        .round()
        .astype(np.uint8)
    )


def field(config: Config, env: Any) -> None:
    """Step 6: a radiance field of the same walk."""
    dream = env.unwrapped

    trajectory = dream.trajectory
    rules = RadianceMemory(PointMemory(PointMemoryConfig(capacity=131072)))
    data = rules.empty(1, "cpu")
    for t, frame in enumerate(trajectory.frames):
        data = rules.integrate(data, frame, dream.memory.camera(frame.pose[0]), torch.tensor([t]))
    fitted_data = rules.fit(data, iterations=200)

    pose = dream.memory.pose.clone()  # a new view: half a metre to the right, and lower
    pose[:3, 3] += 0.5 * pose[:3, 0]
    pose[2, 3] -= 0.3
    camera = dream.memory.camera(pose, size=(192, 192))
    points = rules.render(data, camera)  # before the fit: the points, a pixel each
    smooth = rules.render(fitted_data, camera)

    patches = dream.memory.render(camera)
    print(
        f"known: points {100 * float(points.mask.float().mean()):.0f}%, patches "
        f"{100 * patches.mask.mean():.0f}%, "
        f"field {100 * float(smooth.mask.float().mean()):.0f}%"
    )
    views = [
        (view.rgb[0].permute(1, 2, 0).numpy(), view.mask[0].numpy()) for view in (points, smooth)
    ]
    views.insert(1, (patches.rgb, patches.mask))
    save(
        config, "field", {"": [holes_marked(rgb, mask) for rgb, mask in views]},
        ["points,\na pixel each", "points\nas patches", "field,\n200 iterations"],
    )  # fmt: skip


def limits(config: Config, env: Any) -> None:
    """Step 7: what is not remembered."""
    dream = env.unwrapped

    def walked(capacity):
        rules = PointMemory(PointMemoryConfig(capacity=capacity))
        data = rules.empty(1, "cpu")
        for t, frame in enumerate(dream.trajectory.frames):
            view = dream.memory.camera(frame.pose[0])
            data = rules.integrate(data, frame, view, torch.tensor([t]))
        return rules, data

    views = {}
    for capacity in (131072, 4096):
        rules, data = walked(capacity)
        views[capacity] = rules.render(
            data, dream.memory.camera(dream.trajectory.pose[5])
        )  # the start's pose

    crate = trimesh.creation.box((0.8, 0.8, 0.8))
    crate.visual.face_colors = [240, 130, 20, 255]
    place = dream.memory.pose.clone()
    place[:3, 3] += 2.0 * place[:3, 2]
    place[2, 3] -= 0.5
    pasted = dream.memory.paste(crate, place)
    camera = pasted.camera()
    sees_through = dream.world.memory.integrate(
        pasted.data, dream.state.frame, camera, dream.state.step
    )

    kept = {capacity: 100 * float(view.mask.float().mean()) for capacity, view in views.items()}
    print(
        "known of the start's view: "
        + ", ".join(f"capacity {c:,}: {share:.0f}%" for c, share in kept.items())
    )
    after = dataclasses.replace(pasted, data=sees_through)
    unseen = dream.memory.pose.clone()
    unseen[:3, [0, 2]] *= -1
    back = dream.memory.render(unseen, size=(SIDE, SIDE))
    print(f"known of the unseen view: {100 * back.mask.mean():.0f}%")
    small = [
        holes_marked(picture(view.rgb), picture(view.mask[:, None].expand(-1, 3, -1, -1))[..., 0])
        for view in views.values()
    ]
    shots = [handle.render(size=(SIDE, SIDE)) for handle in (pasted, after)]
    save(
        config,
        "limits",
        {
            "": [
                holes_marked(back.rgb, back.mask),
                *(holes_marked(x.rgb, x.mask) for x in shots),
                *small,
            ]
        },
        [
            "behind\nthe agent",
            "a thing\nput in",
            "one frame\nlater",
            "131,072\npoints",
            "4,096\npoints",
        ],
    )


def main(config: Config) -> None:
    """All steps."""
    torch.manual_seed(config.seed)
    config.folder.mkdir(parents=True, exist_ok=True)
    env = come_back(config, World.from_pretrained(config.world, "cpu"))
    for step in (look, edit, keep, export, field, limits):
        print(f"- {step.__doc__}", flush=True)
        step(config, env)


if __name__ == "__main__":
    main(tyro.cli(Config))
