"""A session of a server as a Gymnasium environment."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError, NotFoundError, WorldsimError
from worldsim.runtime.actions import cast_box_action
from worldsim.runtime.arguments import shown
from worldsim.runtime.extras import missing
from worldsim.runtime.keyboard import Keys, keys_to_action, rates
from worldsim.runtime.options import check_options
from worldsim.runtime.types import Action, Array, Info, JsonObject, Space
from worldsim.sessions.protocol import (
    PROTOCOL,
    Actions,
    Blob,
    Part,
    SessionInfo,
    array_blob,
    array_of,
    error_of,
    pack_json,
    unpack,
)

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PATIENCE = 600.0
"""Seconds to wait for an answer: the first step of a compiled engine takes minutes."""
MOST_BYTES = 2**30
"""Bytes of the largest answer, a snapshot."""


class RemoteEnv(gym.Env[NDArray[np.uint8], Action]):
    """A dream that a session server steps.

    It has the spaces, frames, rewards and infos of a local :class:`worldsim.envs.WorldEnv` of the
    same world, engine and batch bucket on the same kind of device, bit for bit.

    url: of the server, such as ``http://127.0.0.1:8000``.
    world: name of one of the server's worlds.
    render_mode: ``rgb_array`` or None.
    engine: how steps are run; by default the server's setting.
    bucket: batch bucket of the steps. In bucket 1, the default, frames are those of ``gym.make``;
        in a larger one, which None leaves to the server, steps of several sessions are computed
        together.
    num_inference_steps, temperature, uncertainty, paint: as for the local environment.
    token: of the server, if it has one.
    session: id of a session that exists, to attach to instead of making one.
    timeout: seconds to wait for an answer.
    wait: seconds to wait for the server to start.

    Options of ``reset``: ``{"scene": "MAP30-2"}``, or ``{"frames": ...}`` as for the local
    environment. Closing it ends the session.

    Raises MissingDependencyError without the package websockets, NotFoundError if no server answers
    at ``url``, and the errors that the server tells.
    """

    metadata = {"render_modes": ["rgb_array"], **rates(8.75)}

    def __init__(
        self,
        url: str,
        world: str | None = None,
        render_mode: str | None = None,
        engine: str | None = None,
        bucket: int | None = 1,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        uncertainty: bool = False,
        paint: str | None = None,
        token: str | None = None,
        session: str | None = None,
        timeout: float = PATIENCE,
        wait: float = 0.0,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InvalidInputError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if (world is None) == (session is None):
            raise InvalidInputError("give the name of a world, or the id of a session")
        self.url, self.token, self.timeout = url, token, timeout
        self.render_mode = render_mode
        self._socket = _connect(url, token, timeout, wait)
        self._ids = itertools.count(1)
        self._obs: NDArray[np.uint8] | None = None
        first: JsonObject = {"views": [], "format": "raw"}
        if session is not None:
            first |= {"type": "attach", "session": session}
        else:
            settings = {
                "num_inference_steps": num_inference_steps,
                "temperature": temperature,
                "uncertainty": uncertainty,
                "paint": paint,
            }
            first |= {
                "type": "create",
                "world": world,
                "start": None,
                "engine": engine,
                "bucket": bucket,
                "settings": settings,
            }
        try:
            answer, _ = self._ask(first)
            self.info = SessionInfo.model_validate(answer["session"])
            if self.info.reset:
                self._answer(None)
                self._take(*self._ask({"type": "look", **self._looking}))
        except BaseException:
            self._socket.close()
            raise
        self.metadata = {**self.metadata, **rates(self.info.fps)}
        shape = (self.info.height, self.info.width, 3)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = space_of_actions(self.info.actions)

    @property
    def session(self) -> str:
        """Id of the session."""
        return self.info.id

    @property
    def _looking(self) -> JsonObject:
        views = ["rgb", "depth"] if self.info.geometry else ["rgb"]
        return {"views": views, "format": "raw"}

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[NDArray[np.uint8], Info]:
        """Begin a new dream; see the class for ``options``."""
        super().reset(seed=seed)
        message: JsonObject = {"type": "reset", "seed": seed, **self._looking}
        blobs: list[Blob] = []
        given = check_options(options)
        unknown = sorted(set(map(str, given)) - {"scene", "frames"})
        if unknown or len(given) > 1:
            raise InvalidInputError(
                f"reset options are 'scene' or 'frames', got {', '.join(map(shown, given))}"
            )
        if "scene" in given:
            if not isinstance(given["scene"], str):
                raise InvalidInputError(
                    f"reset option 'scene' must be a name, got {given['scene']!r}"
                )
            message["start"] = {"kind": "scene", "name": given["scene"]}
        if "frames" in given:
            message["start"] = {"kind": "frames"}
            blobs = _frames_blobs(given["frames"])
        return self._take(*self._ask(message, blobs))[:2]

    def step(self, action: Action) -> tuple[NDArray[np.uint8], float, bool, bool, Info]:
        """Dream one frame further."""
        if self._obs is None:
            raise ResetNeeded("this environment has not been reset: call reset() first")
        if isinstance(self.action_space, gym.spaces.Box):
            taken: int | list[float] = cast_box_action(action, self.action_space).ravel().tolist()
        elif self.action_space.contains(action):
            taken = int(action)
        else:
            raise InvalidInputError(f"action {action!r} is outside {self.action_space}")
        header, parts = self._ask({"type": "step", "action": taken, **self._looking})
        obs, info = self._take(header, parts)
        return obs, float(header["reward"]), bool(header["terminated"]), False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The newest frame, (h, w, 3) uint8, if the render mode is ``rgb_array``."""
        if self.render_mode != "rgb_array" or self._obs is None:
            return None
        return self._obs.copy()

    def get_keys_to_action(self) -> Keys:
        """Return the keys for ``gymnasium.utils.play``."""
        return keys_to_action(self.action_space)

    def snapshot(self) -> bytes:
        """Return the session as the bytes of a snapshot file.

        Written to a file, ``env.unwrapped.load`` of a local environment reads them.
        """
        _, parts = self._ask({"type": "snapshot"})
        return bytes(parts["snapshot"])

    def restore(self, snapshot: bytes) -> tuple[NDArray[np.uint8], Info]:
        """Go on from a snapshot of the same world; returns its frame and info."""
        if not isinstance(snapshot, bytes):
            raise InvalidInputError(
                f"restore takes the bytes that snapshot gave, got {type(snapshot).__name__}"
            )
        blob: Blob = ("snapshot", "safetensors", (len(snapshot),), snapshot)
        return self._take(*self._ask({"type": "restore", **self._looking}, [blob]))

    def fork(self, n: int, randomness: str = "common") -> list[RemoteEnv]:
        """Return ``n`` environments that go on from here; this one does not change.

        randomness: ``common``, where the same actions give the same futures bit by bit, or
            ``independent``.
        """
        answer, _ = self._ask({"type": "fork", "n": n, "randomness": randomness})
        return [
            RemoteEnv(
                self.url,
                session=told["id"],
                token=self.token,
                render_mode=self.render_mode,
                timeout=self.timeout,
            )
            for told in answer["sessions"]
        ]

    def rewind(self, step: int, branch: int | None = None) -> tuple[NDArray[np.uint8], Info]:
        """Return to the frame after ``step`` steps of the episode; returns frame and info."""
        return self._take(
            *self._ask({"type": "rewind", "step": step, "branch": branch, **self._looking})
        )

    def close(self) -> None:
        """End the session and the connection."""
        try:
            self._ask({"type": "close"})
        except (WorldsimError, OSError):
            pass
        finally:
            self._socket.close()

    # Talking.

    def ask(
        self, message: JsonObject, blobs: Sequence[Blob] = ()
    ) -> tuple[JsonObject, dict[str, Array | bytes]]:
        """Send any message of the protocol; returns the answer's header and its parts.

        Raises the error that the server tells.
        """
        return self._ask(message, blobs)

    def _ask(
        self, message: JsonObject, blobs: Sequence[Blob] = ()
    ) -> tuple[JsonObject, dict[str, Array | bytes]]:
        number = next(self._ids)
        message = {**message, "id": number}
        content = pack_json(message, blobs) if blobs else json.dumps(message)
        from websockets.exceptions import ConnectionClosed

        # The last message of a connection that has ended tells why.
        with contextlib.suppress(ConnectionClosed):
            self._socket.send(content)
        return self._answer(number)

    def _answer(self, number: int | None) -> tuple[JsonObject, dict[str, Array | bytes]]:
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                content = self._socket.recv(timeout=self.timeout)
            except ConnectionClosed as error:
                raise _lost(error) from error
            except TimeoutError as error:
                raise WorldsimError(
                    f"the server at {self.url} has not answered within {self.timeout:g} seconds"
                ) from error
            header, blobs, places = ({}, {}, {}) if isinstance(content, str) else unpack(content)
            if isinstance(content, str):
                header = json.loads(content)
            kind = header.get("type")
            if kind == "error" and header.get("id") in (number, None):
                raise error_of(str(header["code"]), str(header["message"]))
            if kind == "closed" and header.get("id") != number:
                raise error_of("closed", str(header["message"]))
            # The first answers of a connection come in pairs: session and frame.
            if header.get("id") == number or number is None:
                if kind == "progress":
                    continue
                return header, {name: _part(places[name], blobs[name]) for name in blobs}

    def _take(
        self, header: JsonObject, parts: Mapping[str, Array | bytes]
    ) -> tuple[NDArray[np.uint8], Info]:
        """Return observation and info of a frame."""
        rgb = parts["rgb"]
        assert isinstance(rgb, np.ndarray)
        self._obs = rgb.copy()
        info: Info = {}
        if self.info.geometry:
            pose, lens, depth = header["pose"], header["intrinsics"], parts["depth"]
            assert isinstance(depth, np.ndarray)
            info["pose"] = np.array(pose, np.float32).reshape(4, 4)
            info["depth"] = depth.copy()
            info["intrinsics"] = np.array(lens, np.float32)
        info["memory_coverage"] = np.float32(header["coverage"])
        info["generated"] = np.array(True)
        if header.get("uncertainty") is not None:
            info["uncertainty"] = np.float32(header["uncertainty"])
        return self._obs.copy(), info


def connect(url: str, world: str | None = None, **kwargs: Any) -> RemoteEnv:
    """Return an environment whose steps are computed by a session server.

    url: of the server that ``worldsim serve`` runs, such as ``http://127.0.0.1:8000``.
    world: name of one of its worlds.
    kwargs: further arguments of :class:`RemoteEnv`.
    """
    return RemoteEnv(url, world, **kwargs)


def space_of_actions(actions: Actions) -> Space:
    """Return the action space that a message describes."""
    if actions.kind == "discrete":
        return gym.spaces.Discrete(actions.n)
    low, high = (np.array(bound, np.float32) for bound in (actions.low, actions.high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def _connect(url: str, token: str | None, timeout: float, wait: float) -> ClientConnection:
    try:
        from websockets.exceptions import InvalidHandshake, InvalidURI
        from websockets.sync.client import connect as open_socket
    except ImportError as error:
        raise missing("connect needs websockets", "play", error) from error
    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https", "ws", "wss") or not address.netloc:
        raise InvalidInputError(f"url = {url!r}: it must be like http://127.0.0.1:8000")
    scheme = "wss" if address.scheme in ("https", "wss") else "ws"
    path = f"{address.path.rstrip('/')}/api/v1/ws"
    where = urllib.parse.urlunsplit((scheme, address.netloc, path, f"protocol={PROTOCOL}", ""))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    until = time.monotonic() + wait
    while True:
        try:
            return open_socket(
                where,
                additional_headers=headers,
                open_timeout=min(timeout, 30.0),
                max_size=MOST_BYTES,
                # It shall wait as long as for an answer.
                ping_timeout=timeout,
                compression=None,
                proxy=None,
            )
        except (InvalidHandshake, InvalidURI, OSError, TimeoutError) as error:
            if isinstance(error, OSError) and time.monotonic() < until:
                time.sleep(0.1)
                continue
            raise NotFoundError(
                f"no session server answers at {url} ({error}): start one with worldsim serve"
            ) from error


def _lost(error: Exception) -> WorldsimError:
    close = getattr(error, "rcvd", None)
    if close is not None and close.code == 4401:
        return WorldsimError(f"the server wants a token ({close.reason}): connect(url, token=...)")
    return WorldsimError(f"the server has closed the connection ({error}): connect again")


def _part(part: Part, content: bytes) -> Array | bytes:
    return array_of(part, content) if part.format.startswith("raw/") else content


def _frames_blobs(frames: object) -> list[Blob]:
    from worldsim.world.starts import as_scene

    scene = as_scene(copy.copy(frames))  # type: ignore[arg-type]
    blobs = [
        array_blob("rgb", scene.rgb.permute(0, 2, 3, 1).numpy()),
        array_blob("act", scene.act.numpy()),
    ]
    if scene.inverse_depth is not None:
        from worldsim.camera import dequantise_depth

        blobs.append(array_blob("depth", dequantise_depth(scene.inverse_depth).numpy()))
    for name, value in (("pose", scene.pose), ("intrinsics", scene.intrinsics)):
        if value is not None:
            blobs.append(array_blob(name, value.numpy()))
    return blobs
