"""``worldsim view``: shows the scene memory and walk of a snapshot in 3D, in the browser.

It shows the content of the file: the memory's points, each as large as the patch of surface that it
represents, the path, and its cameras with their frames. The world's weights are not needed.

viser serves the page. The file may come from anybody, and the page's controls reach into this
process. Texts of the file are therefore shown as plain letters (:func:`plain`), only the page
itself may connect (:func:`worldsim.runtime.hosts.may_connect`), and viser's sharing through its
servers is off.
"""

from __future__ import annotations

import contextlib
import http
import io
import math
import threading
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import whole
from worldsim.runtime.extras import missing
from worldsim.runtime.hosts import may_connect, require_port
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.types import Array

if TYPE_CHECKING:
    from viser import (
        CameraFrustumHandle,
        ClientHandle,
        GuiCheckboxHandle,
        LineSegmentsHandle,
        PointCloudHandle,
        SceneNodeHandle,
        ViserServer,
    )
    from websockets.http11 import Request, Response

    from worldsim.memory.handle import MemoryHandle
    from worldsim.memory.handle_results import PointArrays
    from worldsim.world.snapshots import OpenedSnapshot

COLOURINGS = ("rgb", "height", "confidence")
SCALE = np.array(
    [(48, 18, 59), (40, 90, 200), (30, 190, 190), (120, 220, 70), (250, 190, 50), (215, 40, 25)],
    np.float64,
)
"""Low to high, for height and confidence."""
SHOWN_CAMERAS = 40
"""Of a longer walk, so many cameras, evenly spread; the frame slider reaches every frame."""
FRUSTUM = 0.25
"""Metres from the tip of a drawn camera to its picture."""
PATH_COLOUR, CAMERA_COLOUR, CHOSEN_COLOUR = (255, 170, 40), (90, 130, 200), (255, 60, 60)
SMALLEST = 0.005
"""Metres a side of the smallest points drawn."""
LONGEST_TEXT = 80
"""Letters of a file's text that are shown."""
BEHIND, OVER = 3.0, 2.0
"""Where a visitor's camera begins: so many metres behind and over the newest frame's."""


@dataclass(frozen=True)
class ViewConfig:
    """Show the scene memory and walk of a snapshot, or a scene, in the browser."""

    snapshot: Path
    """A file that an environment's save wrote, or the folder of a scene, as generate and journey
    write it."""
    index: int = 0
    """Index of the environment in the file, from 0."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets other computers connect, too."""
    port: int = 8080
    """Port to serve at."""

    def __post_init__(self) -> None:
        check_ranges(self)
        whole("port", self.port, 1, 65535)
        if self.index < 0:
            raise InvalidInputError(f"index = {self.index}: environments are counted from 0")


@dataclass(frozen=True)
class Shot:
    """One frame of a walk: rgb (h, w, 3) uint8 and pose (4, 4) camera-to-world."""

    rgb: Array
    pose: Array


@dataclass(frozen=True)
class Cloud:
    """Points of one size.

    rows: (n,) indices into all points.
    size: side length, metres.
    shown: viser's handle.
    """

    rows: Array
    size: float
    shown: PointCloudHandle


def view(config: ViewConfig) -> None:
    """Serve the snapshot until interrupted."""
    viewer = open_viewer(config)
    try:
        print(f"{config.snapshot}: {viewer.description}")
        print(f"http://{config.host}:{config.port}  (Ctrl-C ends it)", flush=True)
        # In short waits: an interrupt that comes just before an endless one would never be noticed.
        never = threading.Event()
        while not never.wait(1.0):
            pass
    except KeyboardInterrupt:
        viewer.stop()


def open_viewer(config: ViewConfig) -> Viewer:
    """Start a viewer that serves ``config.snapshot``; :meth:`Viewer.stop` ends it.

    Raises what :func:`worldsim.world.opened.open_memory` raises, MissingDependencyError
    without viser, and InvalidInputError if the port cannot be used or the memory holds no points.
    """
    from worldsim.world.opened import open_memory

    opened = open_memory(config.snapshot, config.index)
    try:
        import viser
    except ImportError as error:
        raise missing("the viewer needs viser", "view", error) from error
    require_port(config.host, config.port)
    with _quiet(), _guard(config.host):
        label = f"worldsim {plain(config.snapshot.name)}"
        server = _unshare(viser.ViserServer(config.host, config.port, label=label, verbose=False))
    if server.get_port() != config.port:
        # viser goes on to the next port if someone was quicker.
        with _quiet():
            server.stop()
        raise InvalidInputError(
            f"port {config.port} of {config.host} has just been taken: give another one with --port"
        )
    try:
        return Viewer(server, opened)
    except BaseException:
        with _quiet():
            server.stop()
        raise


class Viewer:
    """The page and its controls, which all visitors share."""

    def __init__(self, server: ViserServer, opened: OpenedSnapshot) -> None:
        memory = opened.memory
        self.server = server
        self._points = memory.points()
        self._shots = _walk(opened)
        _, fy = (float(f) for f in memory.intrinsics[:2])
        height, width = memory.size
        self._lens = (2.0 * math.atan(0.5 * height / fy), width / height)
        self._heights = _range(self._points.position[:, 2])
        source = plain(opened.world or opened.env_id) or "a world without a name"
        self.description = f"{len(self._points)} points, {len(self._shots)} frames, from {source}"
        server.scene.set_up_direction("+z")
        server.gui.configure_theme(dark_mode=True, control_width="medium", show_share_button=False)
        self._clouds = self._add_clouds()
        self._sky = self._add_sky(memory)
        self._path = self._add_path()
        self._cameras = [
            self._frustum(f"/cameras/{t}", t, CAMERA_COLOUR)
            for t in _spread(len(self._shots), SHOWN_CAMERAS)
        ]
        self._chosen = self._frustum("/chosen", len(self._shots) - 1, CHOSEN_COLOUR)
        self._add_controls(source)
        self._begin(self._shots[-1].pose)

    def stop(self) -> None:
        """End the server."""
        with _quiet():
            self.server.stop()

    # The scene.

    def _add_clouds(self) -> list[Cloud]:
        """Add the points in classes of size, a factor of sqrt(2) apart.

        A viser cloud has one size for all its points.
        """
        step_of = np.round(2.0 * np.log2(np.maximum(self._points.size, SMALLEST))).astype(int)
        clouds = []
        for step in np.unique(step_of):
            rows = np.flatnonzero(step_of == step)
            cloud = self.server.scene.add_point_cloud(
                f"/points/{step}",
                self._points.position[rows],
                self._points.colour[rows],
                point_size=float(2.0 ** (step / 2)),
                point_shape="square",
                precision="float32",
                point_shading="flat",
            )
            clouds.append(Cloud(rows, float(2.0 ** (step / 2)), cloud))
        return clouds

    def _add_sky(self, memory: MemoryHandle) -> PointCloudHandle | None:
        """Add directions on a sphere around everything, hidden at first; None if there are none."""
        direction, colour = memory.sky()
        if not len(direction):
            return None
        centre = self._shots[-1].pose[:3, 3]
        radius = 1.2 * float(
            np.linalg.norm(self._points.position - centre, axis=1).max(initial=5.0)
        )
        return self.server.scene.add_point_cloud(
            "/sky",
            (centre + radius * direction).astype(np.float32),
            colour,
            point_size=radius / float(memory.intrinsics[0]),
            precision="float32",
            point_shading="flat",
            visible=False,
        )

    def _add_path(self) -> LineSegmentsHandle | None:
        places = np.stack([shot.pose[:3, 3] for shot in self._shots])
        if len(places) < 2:
            return None
        lines = np.stack([places[:-1], places[1:]], 1)
        return self.server.scene.add_line_segments(
            "/path", lines, PATH_COLOUR, thickness=3.0, thickness_units="screen"
        )

    def _frustum(self, name: str, t: int, colour: tuple[int, int, int]) -> CameraFrustumHandle:
        fov, aspect = self._lens
        wxyz, position = _place(self._shots[t].pose)
        frustum = self.server.scene.add_camera_frustum(
            name,
            fov,
            aspect,
            scale=FRUSTUM * (1.2 if colour == CHOSEN_COLOUR else 1.0),
            color=colour,
            thickness=2.0,
            thickness_units="screen",
            image=self._shots[t].rgb,
            format="png",
            wxyz=wxyz,
            position=position,
        )

        def on_click(_: object) -> None:
            self._frame.value = t  # type: ignore[misc]

        if colour == CAMERA_COLOUR:
            frustum.on_click(on_click)
        return frustum

    # What can be changed.

    def _add_controls(self, source: str) -> None:
        gui = self.server.gui
        gui.add_markdown(f"**{source}**  \n{self.description.rsplit(', ', 1)[0]}")
        self._colouring = gui.add_dropdown("colour", COLOURINGS, initial_value="rgb")
        self._size = gui.add_slider(
            "point size", 0.1, 4.0, 0.1, 1.0, hint="times the patch that a point stands for"
        )
        # Whole tenths: a few points far above would leave no room on the slider for the rest.
        low, top = (
            math.floor(10.0 * self._heights[0]) / 10.0,
            math.ceil(10.0 * self._heights[1]) / 10.0 + 0.1,
        )
        self._cut = gui.add_slider(
            "cut above (m)", low, top, 0.1, top, hint="hides what is higher, such as ceilings"
        )
        last = len(self._shots) - 1
        with gui.add_folder("walk"):
            self._frame = gui.add_slider("frame", 0, max(last, 1), 1, last, disabled=last < 1)
            self._picture = gui.add_image(_enlarge(self._shots[last].rgb), format="png")
            jump = gui.add_button("jump to this camera")
        with gui.add_folder("show"):
            self._show = {"cameras": self._switch("cameras", self._cameras, True)}
            if self._path is not None:
                self._show["path"] = self._switch("path", [self._path], True)
            if self._sky is not None:
                self._show["sky"] = self._switch("sky", [self._sky], False)
        self._colouring.on_update(lambda _: self._repaint())
        self._cut.on_update(lambda _: self._repaint())
        self._size.on_update(lambda _: self._resize())
        self._frame.on_update(lambda _: self._choose(int(self._frame.value)))
        jump.on_click(lambda event: self._jump(event.client))

    def _switch(self, name: str, things: Sequence[SceneNodeHandle], on: bool) -> GuiCheckboxHandle:
        box = self.server.gui.add_checkbox(name, initial_value=on)

        def on_switch(_: object) -> None:
            for thing in things:
                thing.visible = box.value

        box.on_update(on_switch)
        return box

    def _repaint(self) -> None:
        """Update the clouds to the chosen colouring and cut."""
        colour = colours(self._points, self._colouring.value, self._heights)
        shown = (self._points.position[:, 2] <= self._cut.value) | (
            self._cut.value >= self._cut.max
        )
        with self.server.atomic():
            for cloud in self._clouds:
                left = cloud.rows[shown[cloud.rows]]
                cloud.shown.visible = len(left) > 0
                if len(left):
                    cloud.shown.points, cloud.shown.colors = (
                        self._points.position[left],
                        colour[left],
                    )

    def _resize(self) -> None:
        with self.server.atomic():
            for cloud in self._clouds:
                cloud.shown.point_size = self._size.value * cloud.size

    def _choose(self, t: int) -> None:
        shot = self._shots[min(t, len(self._shots) - 1)]
        wxyz, position = _place(shot.pose)
        with self.server.atomic():
            self._chosen.wxyz, self._chosen.position = wxyz, position
            self._chosen.image, self._chosen.visible = shot.rgb, True
        self._picture.image = _enlarge(shot.rgb)

    def _jump(self, client: ClientHandle | None) -> None:
        """Move a visitor to the chosen frame's camera, with its field of view."""
        assert client is not None
        wxyz, position = _place(self._shots[int(self._frame.value)].pose)
        with client.atomic():
            client.camera.position = position
            client.camera.wxyz = wxyz
            client.camera.fov = self._lens[0]
        # A picture held in front of the eye would hide what the memory shows.
        self._show["cameras"].value = False  # type: ignore[misc]
        self._chosen.visible = False

    def _begin(self, pose: Array) -> None:
        ahead = pose[:3, 2] * np.array([1.0, 1.0, 0.0])
        ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-6)
        place = pose[:3, 3]
        camera = self.server.initial_camera
        camera.up = (0.0, 0.0, 1.0)
        camera.position = tuple(
            (place - BEHIND * ahead + OVER * np.array([0.0, 0.0, 1.0])).tolist()
        )
        camera.look_at = tuple((place + ahead).tolist())


def plain(text: str) -> str:
    """Return the part of a file's text that is safe to show: letters, digits and a few signs.

    The signs have no meaning in Markdown, HTML or a terminal.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in " .,:_-/") else "?" for c in text)
    # A page makes links of what looks like one.
    kept = kept.replace("//", "/ /")
    return kept if len(kept) <= LONGEST_TEXT else kept[: LONGEST_TEXT - 3] + "..."


@contextlib.contextmanager
def _guard(host: str) -> Iterator[None]:
    """Context that makes new servers refuse what :func:`may_connect` refuses.

    The library itself has no setting for it.
    """
    from websockets.asyncio import server

    serve = server.serve

    def guarded(handler: Any, *args: Any, process_request: Any = None, **kwargs: Any) -> Any:
        def process(
            connection: server.ServerConnection, request: Request
        ) -> Awaitable[Response | None] | Response | None:
            if not may_connect(request.headers, host):
                return connection.respond(
                    http.HTTPStatus.FORBIDDEN, "this viewer answers its own page alone\n"
                )
            return None if process_request is None else process_request(connection, request)

        return serve(handler, *args, process_request=process, **kwargs)

    server.serve = guarded  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]


def _unshare(server: ViserServer) -> ViserServer:
    """Return the server without viser's sharing.

    Every visitor could request it, and it would publish the page through viser's servers.
    """
    server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
    return server


def colours(points: PointArrays, colouring: str, heights: tuple[float, float]) -> Array:
    """Return (n, 3) uint8 colours of the points.

    They are the points' own colours, or show height (between ``heights``) or the logarithm of
    confidence.
    """
    if colouring == "height":
        share = (points.position[:, 2] - heights[0]) / max(heights[1] - heights[0], 1e-6)
    elif colouring == "confidence":
        share = np.log(np.maximum(points.confidence, 1)) / math.log(255.0)
    else:
        return points.colour
    place = np.clip(share, 0.0, 1.0) * (len(SCALE) - 1)
    return (
        np.stack([np.interp(place, np.arange(len(SCALE)), SCALE[:, c]) for c in range(3)], -1)
        .round()
        .astype(np.uint8)
    )


def _walk(opened: OpenedSnapshot) -> list[Shot]:
    """Return the trajectory's frames; without one, the memory at the newest frame's camera."""
    if opened.trajectory is None:
        picture = opened.memory.render()
        return [Shot(picture.rgb, picture.pose)]
    trajectory = opened.trajectory
    return [
        Shot(trajectory.rgb[t].permute(1, 2, 0).numpy(), trajectory.pose[t].numpy())
        for t in range(len(trajectory))
    ]


def _place(pose: Array) -> tuple[Array, Array]:
    """Return a pose as a quaternion ``wxyz`` (4,) and a position (3,), metres."""
    import viser.transforms

    rotation = viser.transforms.SO3.from_matrix(pose[:3, :3].astype(np.float64))
    return rotation.wxyz, pose[:3, 3].astype(np.float64)


def _spread(n: int, most: int) -> list[int]:
    """Return at most ``most`` of ``n`` indices, evenly spread, always with the last one."""
    return sorted(set(np.linspace(n - 1, 0, min(n, most)).round().astype(int).tolist()))


def _range(values: Array) -> tuple[float, float]:
    """Return the range of all values but two per cent at each end."""
    low, high = np.percentile(values, (2, 98)) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def _enlarge(rgb: Array) -> Array:
    from worldsim.io.pictures import enlarge

    return enlarge(rgb, max(1, 256 // max(rgb.shape[:2])))


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Context in which viser's announcement on stdout is suppressed."""
    return contextlib.redirect_stdout(io.StringIO())
