"""Put a crate into the memory, see the dream follow, and export what the world remembers.

    python examples/edit_and_export_memory.py [OUT]

Writes ``edit.png``, ``memory.ply``, ``walk/`` (a nerfstudio dataset) and, where Open3D is
installed, ``walk.glb`` into the folder OUT (default ``out/edit_and_export_memory``). Takes about
half a minute on a CPU.
"""

# %% Imports
import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import trimesh

import worldsim  # noqa: F401  registers the environments
from worldsim.io.meshes import fuse, save_glb
from worldsim.io.nerfstudio import save_nerfstudio
from worldsim.io.pictures import contact_sheet, save_picture

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/edit_and_export_memory")
out.mkdir(parents=True, exist_ok=True)
LEFT, RIGHT = 3, 4

# %% Look to both sides, so that the memory knows the place
env = gym.make("worldsim/FreedoomDream-v0")
obs, info = env.reset(seed=0, options={"scene": "MAP28-5"})
for action in [LEFT] * 4 + [RIGHT] * 8 + [LEFT] * 4:
    obs, reward, terminated, truncated, info = env.step(action)
shots = {"before": obs}

# %% The memory is an object: ask it what it holds
dream = env.unwrapped
print("memory:", dream.memory.statistics())
view = dream.memory.render(size=(256, 256))  # any pose and size; holes are in view.mask
print(f"a 256x256 view from the agent's pose: {view.mask.mean():.0%} known")

# %% Paste a crate 2.5 m ahead, on the floor
crate = trimesh.creation.box((0.8, 0.8, 0.8))
crate.visual.face_colors = [240, 130, 20, 255]
place = dream.memory.pose.clone()  # camera-to-world, metres, z up
place[:3, 3] += 2.5 * place[:3, 2]
place[2, 3] = dream.memory.floor(place) + 0.4
obs, info = dream.edit(dream.memory.paste(crate, place))
shots["crate"] = obs

# %% Look away and back: the crate stays
for action in [LEFT] * 9:
    obs, reward, terminated, truncated, info = env.step(action)
shots["away"] = obs
for action in [RIGHT] * 9:
    obs, reward, terminated, truncated, info = env.step(action)
shots["back"] = obs

# %% Paint it, then take it away. The box is deeper than the crate: dreamed edges lie behind it
box = ((-0.5, -0.7, -0.5), (0.5, 0.45, 1.0))  # two corners, in the axes of `place`
dream.edit(dream.memory.recolour(box, (30, 60, 230), place))
shots["blue"] = env.step(0)[0]
dream.edit(dream.memory.remove(box, place))
shots["removed"] = env.step(0)[0]

sheet = contact_sheet({"dream": list(shots.values())}, list(shots), scale=3)
save_picture(sheet, out / "edit.png")
print(f"Wrote {out / 'edit.png'}")

# %% Export: the memory's points, and the walk's frames with depth and poses
memory, walk = dream.memory, dream.trajectory
memory.to_ply(out / "memory.ply")
save_nerfstudio(walk, out / "walk", force=True)
print(f"Wrote {len(memory.points().position):,} points and a dataset of {len(walk.rgb)} frames")
if importlib.util.find_spec("open3d") is not None:  # pip install '.[open3d]'
    mesh = fuse(walk)
    save_glb(mesh, out / "walk.glb")
    print(f"Wrote a mesh of {len(mesh.faces):,} triangles")
