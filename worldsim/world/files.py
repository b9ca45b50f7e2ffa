"""Worlds on disk: a folder with ``world.json`` and one sub-folder per module.

Worlds are found by path, shipped name or hub repository. ``world.json`` (version 3) holds the
config, the card, the SHA-256 of each module's files, and its own checksum. Version 1, without
checksums, and version 2, whose config has old names (``steps``, ``context_level``), are also read.
A world's folder contains no code, and only files inside it are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import nn

from worldsim.diffusion.module import Module
from worldsim.diffusion.quantise import dequantise_weights, quantise_weights, stored_shapes
from worldsim.diffusion.shapes import shapes_only
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    NotFoundError,
    UntrustedFileError,
    WorldsimError,
)
from worldsim.runtime.files import (
    as_path,
    check_files,
    files_in,
    inside,
    is_file,
    is_folder,
    load_tensors,
    present_folder,
    replacing_folder,
    require_finite,
    require_regular,
    save_tensors,
    sha256_of,
    tensor_shapes,
)
from worldsim.runtime.json_config import (
    check_format,
    check_seal,
    from_json,
    read_json,
    to_json,
    write_json,
    write_sealed,
)
from worldsim.runtime.types import JsonMapping, JsonObject
from worldsim.world.config import WorldConfig

Trained = TypeVar("Trained", bound=Module)
FORMAT, FORMAT_VERSION = "worldsim-world", 3
WORLD = "world.json"
PLAIN_WEIGHTS, PACKED_WEIGHTS = "diffusion_pytorch_model.safetensors", "int8.safetensors"
WORLDS_FOLDER = Path(__file__).parent.parent / "worlds"
HUB = "hub:"
"""Prefix of hub repositories: ``hub:owner/name`` or ``hub:owner/name@revision``."""

PUBLISHED = (".json", ".safetensors", ".png", ".webp")
"""Suffixes of the files that are uploaded to and downloaded from the hub."""

_REPOSITORY = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
_REVISION = re.compile(r"[\w][\w./-]{0,127}")


def save_world(
    folder: str | os.PathLike[str],
    modules: Mapping[str, nn.Module],
    config: WorldConfig,
    card: JsonObject,
    eight_bit: bool,
) -> Path:
    """Write a world atomically, see :meth:`worldsim.world.World.save_pretrained`.

    The folder is written to a temporary place and renamed, so an interrupted save leaves the old
    world.

    modules: the trained parts by folder name.
    eight_bit: whether weights are stored as int8.
    """
    folder = Path(folder)
    with replacing_folder(folder) as new:
        for name, module in modules.items():
            settings: JsonMapping = module.settings  # type: ignore[assignment]
            write_json(
                new / name / "config.json", {"_class_name": type(module).__name__, **settings}
            )
            weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
            target, stale = (
                (PACKED_WEIGHTS, PLAIN_WEIGHTS) if eight_bit else (PLAIN_WEIGHTS, PACKED_WEIGHTS)
            )
            half = getattr(module, "half_precision", ())
            save_tensors(
                quantise_weights(weights, half) if eight_bit else weights, new / name / target
            )
            (new / name / stale).unlink(missing_ok=True)
        write_card(new, config, card)
    return folder


def write_card(folder: Path, config: WorldConfig, card: JsonObject) -> None:
    """Write ``world.json`` with the current checksums of the world's module files."""
    values = {"format": FORMAT, "version": FORMAT_VERSION, "config": to_json(config), "card": card}
    write_sealed(folder / WORLD, {**values, "sha256": module_checksums(folder)})


def module_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a world's modules, by its path in the folder."""
    parts = sorted(path.parent for path in folder.glob("*/config.json"))
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for part in parts
        for path in files_in(part)
    }


def find_world(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return the folder of a world.

    name: a path, the name of a shipped world, or ``hub:owner/name``, which is downloaded. Only
    names that start with ``hub:`` cause a request to the hub.
    revision: commit, tag or branch of the hub repository; also given as
    ``hub:owner/name@revision``.

    Raises NotFoundError.
    """
    text = str(as_path(name)) if not isinstance(name, str) else name
    if text.startswith(HUB):
        return _from_hub(text.removeprefix(HUB), revision)
    if revision is not None:
        raise InvalidInputError(f"revision {revision!r} needs a hub repository: write hub:{text}")
    for folder in (present_folder(text), WORLDS_FOLDER / text):
        if is_file(folder / WORLD):
            return folder
    if is_file(Path(text) / "world" / WORLD):
        raise NotFoundError(
            f"{text!r} is the folder of a training: its world is {str(Path(text) / 'world')!r}"
        )
    if is_folder(text) or is_file(text):
        raise NotFoundError(f"{text!r} is not a world: it has no {WORLD}")
    hint = f" (of the hub: write {HUB}{text})" if _REPOSITORY.fullmatch(text) else ""
    raise NotFoundError(
        f"no world {text!r}{hint}: give a folder with a {WORLD}, or {_list_shipped()}"
    )


def find_world_of_file(name: str, folder: Path, trusted: bool) -> str:
    """Return the world that a file in ``folder`` names, for :func:`find_world`.

    It must be a shipped world or a folder inside ``folder``.

    trusted: allow other folders and hub repositories.

    Raises UntrustedFileError.
    """
    if trusted:
        return name
    if name in shipped_worlds():
        return str(WORLDS_FOLDER / name)
    try:
        # Absolute, because a folder's name can look like a hub repository.
        path = inside(folder.resolve(), name)
        return str(path) if is_file(path / WORLD) else _refuse_world(name, folder)
    except DamagedFileError:
        return _refuse_world(name, folder)


def _refuse_world(name: str, folder: Path) -> str:
    raise UntrustedFileError(
        f"{folder} names the world {name!r}, which is neither shipped nor inside that folder: "
        f"give the world yourself "
        "(--world), or, if you trust the file, pass --trust (in Python trust=True)"
    )


def _from_hub(name: str, revision: str | None) -> Path:
    repository, revision = split_repository(name, revision)
    patterns = [f"*{suffix}" for suffix in PUBLISHED]
    folder = download(repository, revision, patterns, "world", f": {_list_shipped()}")
    if not is_file(folder / WORLD):
        raise NotFoundError(
            f"the hub's repository {repository!r} is not a world: it has no {WORLD}"
        )
    return folder


def split_repository(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split ``owner/name@revision``, the part of a hub name after ``hub:``.

    revision: given apart from the name.

    Returns the repository and its revision. Raises InvalidInputError.
    """
    repository, at, pinned = name.partition("@")
    if at and revision is not None and revision != pinned:
        raise InvalidInputError(f"two revisions of {repository}: {pinned!r} and {revision!r}")
    revision = pinned if at else revision
    if not _REPOSITORY.fullmatch(repository) or (
        revision is not None and not _REVISION.fullmatch(revision)
    ):
        raise InvalidInputError(
            f"{HUB}{name} is not a repository: write hub:owner/name or hub:owner/name@revision"
        )
    return repository, revision


def download(
    repository: str, revision: str | None, patterns: Sequence[str], kind: str, hint: str = ""
) -> Path:
    """Download files of a hub repository; returns their folder, which is named by the commit.

    patterns: of the files.
    kind: what the repository should hold, for errors.
    hint: end of the error's text.

    Raises NotFoundError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        at = "" if revision is None else f" at revision {revision}"
        raise NotFoundError(
            f"no {kind} {repository!r} on the hub{at} ({type(error).__name__}){hint}"
        ) from error


def require_repository(name: str) -> None:
    """Raise InvalidInputError unless ``name`` is a valid name of a hub repository."""
    if not _REPOSITORY.fullmatch(name):
        raise InvalidInputError(f"{name!r} is not a name of a hub repository: write owner/name")


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder to a hub repository, created if missing; returns the commit's address.

    Raises InvalidInputError for an invalid name, and WorldsimError if the hub refuses or cannot be
    reached.
    """
    require_repository(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise WorldsimError(
            f"{repository} could not be written ({error}): log in with `hf auth login` and try "
            f"again"
        ) from error


def hub_source(folder: Path) -> str | None:
    """Return ``hub:owner/name@commit`` for a folder in the hub's cache, None for other folders."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # The cache's layout is documented: models--OWNER--NAME/snapshots/COMMIT.
    cached = (
        folder.parent.name == "snapshots"
        and folder.parent.parent.parent.absolute() == Path(HF_HUB_CACHE).absolute()
    )
    if not cached or not folder.parent.parent.name.startswith("models--"):
        return None
    repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return f"{HUB}{repository}@{folder.name}"


def shipped_worlds() -> list[str]:
    """Return the names of the worlds shipped with worldsim."""
    return sorted(p.parent.name for p in WORLDS_FOLDER.glob("*/world.json"))


def _list_shipped() -> str:
    return f"one of the shipped worlds: {', '.join(shipped_worlds()) or 'none'}"


def read_card(path: Path) -> tuple[WorldConfig, JsonObject]:
    """Read config and card of a ``world.json``.

    The world's files are first compared with their checksums. Raises NotFoundError or
    DamagedFileError.
    """
    meta = read_json(inside(path.parent, path.name))
    version = check_format(path, meta, FORMAT, FORMAT_VERSION)
    card = meta.get("card", {})
    if not isinstance(card, dict):
        raise DamagedFileError(
            f"{path} is damaged (its card is not a JSON object): copy the world again"
        )
    try:
        config = from_json(WorldConfig, meta.get("config"))
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the world again") from error
    check_seal(path, meta, required=version >= 2)
    if version >= 2:
        check_files(path, meta.get("sha256"))
    return config, card


def load_one_of(kinds: Sequence[type[Trained]], folder: Path) -> Trained:
    """Load a module of the class that its config names; the first of ``kinds`` if it names none.

    See :func:`load_module`, which also raises the error for a class that is not among ``kinds``.
    """
    config = read_json(inside(folder.parent, f"{folder.name}/config.json"))
    named = config.get("_class_name") if isinstance(config, dict) else None
    return load_module(next((kind for kind in kinds if kind.__name__ == named), kinds[0]), folder)


def load_module(kind: type[Trained], folder: Path) -> Trained:
    """Load a module from its folder: diffusers' layout, or int8 weights beside the same config.

    ``_same_as`` in the config names a shipped world that has the same module with the same weights,
    so that shipped worlds do not store weights twice. Saved worlds are complete. The shapes in the
    config are compared with those in the weights file before memory is allocated. Raises
    NotFoundError or DamagedFileError.
    """
    config = read_json(inside(folder.parent, f"{folder.name}/config.json"))
    if not isinstance(config, dict):
        raise DamagedFileError(f"{folder / 'config.json'} holds no settings: copy the world again")
    if "_same_as" in config:
        if config["_same_as"] not in shipped_worlds():
            raise DamagedFileError(
                f"{folder / 'config.json'}: {config['_same_as']!r} is no shipped world: copy the "
                f"world again"
            )
        return load_module(kind, WORLDS_FOLDER / config["_same_as"] / folder.name)
    packed, plain = (
        inside(folder.parent, f"{folder.name}/{name}") for name in (PACKED_WEIGHTS, PLAIN_WEIGHTS)
    )
    path = packed if is_file(packed) else plain
    if not is_file(path):
        raise NotFoundError(
            f"{folder} has no weights ({packed.name} or {plain.name}): copy the world again"
        )
    require_regular(path)
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise DamagedFileError(
            f"{folder / 'config.json'} configures a {named!r}, not a {kind.__name__}: copy the "
            f"world again"
        )
    module = _made(kind, config, folder / "config.json", path)
    try:
        weights = load_tensors(path)
        module.load_state_dict(dequantise_weights(weights) if path == packed else weights)
    except (RuntimeError, KeyError, ValueError) as error:
        raise DamagedFileError(
            f"{path} is damaged or does not fit its config.json ({error}): copy the world again"
        ) from error
    require_finite(module.state_dict(), path)
    return module


def _made(kind: type[Trained], config: JsonMapping, source: Path, weights: Path) -> Trained:
    """Build a module from the settings in ``source``, with fresh weights.

    Raises DamagedFileError unless the file ``weights`` holds weights of its shapes.
    """
    settings = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        kind.check_settings(settings)
        with shapes_only():
            claimed = {
                k: tuple(v.shape) for k, v in kind.of_settings(settings).state_dict().items()
            }
    except (
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        LookupError,
        ArithmeticError,
    ) as error:
        raise DamagedFileError(f"{source} is damaged ({error}): copy the world again") from error
    found = tensor_shapes(weights)
    found = stored_shapes(found) if weights.name == PACKED_WEIGHTS else found
    if claimed != found:
        differ = sorted(k for k in claimed.keys() | found.keys() if claimed.get(k) != found.get(k))
        name = differ[0]
        given, wanted = found.get(name, "missing"), claimed.get(name, "nothing")
        first = f"{name} is {given}, {wanted} by its config"
        raise DamagedFileError(
            f"{weights} is damaged or does not fit its config.json ({first}): copy the world again"
        )
    return kind.of_settings(settings)
