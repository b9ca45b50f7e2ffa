"""Thresholds of the validator from real train views, and what it catches on test views.

    python experiments/painter/record.py --out out/train --sets 320 --workers 1
    python experiments/painter/record.py --out out/test --sets 192 --split test --workers 1
    python experiments/painter/validator.py --train out/train --test out/test --out out/validator

Writes ``validator.json`` (the thresholds that worldsim/painting ships) and ``measured.json``.
Results: docs/experiments/validator.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from faults import FAULTS, Fault
from torch import Tensor

from worldsim.camera import Camera
from worldsim.evaluation.statistics import bootstrap_ci, mean_statistic
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.views import ViewSets, join, load_view_sets
from worldsim.painting.validation import checks
from worldsim.painting.validation.checks import Views
from worldsim.painting.validation.validator import (
    FORMAT,
    GEOMETRIC,
    PICTORIAL,
    SCORE,
    Bounds,
    Thresholds,
    Validator,
    passed,
)
from worldsim.protocols import PaintInputs
from worldsim.runtime.files import load_tensors
from worldsim.runtime.json_config import from_json, read_json, to_json, write_json
from worldsim.runtime.progress import follow
from worldsim.state import Frame

HEADINGS = 8
MOST_SHARDS = 48
"""Shards that are read of a folder."""
SIDES: Mapping[str, str] = {
    "scale": "most",
    "seen_past": "most",
    "nearest": "least",
    "speckle": "most",
    "colour_conflict": "most",
    "rectangle": "most",
    "seams": "most",
    "sharpness": "least",
    "blur": "least",
    "noise": "most",
    "colour_noise": "most",
    "edges": "least",
    "contrast": "least",
    "repetition": "most",
    SCORE: "most",
    "room": "least",
    "floor": "most",
}
"""Which bound each check has."""
SHARES: Mapping[str, float] = {
    "scale": 0.01,
    "seams": 0.01,
    "noise": 0.001,
    "colour_noise": 0.001,
    "edges": 0.001,
    "speckle": 0.0,
}
"""Share of train views beyond the bound, where it is not ``Config.quantile``."""
LEAST_SCALE = 0.1
"""Error of the scale, as |log|, that is harmless."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    train: Path
    """Look-arounds of train maps."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """Folder of the two files."""
    quantile: float = 0.004
    """Share of train views beyond each bound."""
    thresholds: Path | None = None
    """Thresholds to measure; by default new ones are set."""
    faults: tuple[str, ...] = tuple(FAULTS)
    """Faults to plant."""
    painters: tuple[Path, ...] = ()
    """Painters whose denoising errors are bounded, too. The first one's is checked."""
    dreams: Path | None = None
    """``frames.safetensors`` of experiments/painter/dreams.py."""
    sets: int = 192
    """Sets of each split, evenly spread over its shards."""
    fault_sets: int = 48
    """Test sets in which faults are planted, evenly spread."""
    seed: int = 0
    """Of faults and of the views in the memory."""


@dataclass(frozen=True)
class Place:
    """A real place: its headings with what a memory of some displaced views shows there."""

    views: Views
    points: Points
    attributes: Mapping[str, float]


def places_of(sets: ViewSets, seed: int) -> list[Place]:
    """The places of view sets, each with a memory of 1 to 6 displaced views."""
    _, k, h, w, _ = sets.rgb.shape
    lens = torch.from_numpy(np.array(sets.intrinsics))
    memory = PointMemory(PointMemoryConfig(capacity=k * h * w))
    rng = np.random.default_rng(seed)
    found = []
    for s in follow(range(len(sets)), "places", "place"):
        rgb = torch.from_numpy(sets.rgb[s]).permute(0, 3, 1, 2).contiguous()
        code = torch.from_numpy(sets.inverse_depth[s].astype(np.int32))
        pose = torch.from_numpy(sets.pose[s])

        def part(at: Sequence[int], rgb: Tensor = rgb, code: Tensor = code, pose: Tensor = pose):
            index = torch.as_tensor(at)
            camera = Camera(pose[index], lens.expand(len(index), 4), h, w)
            return Frame(rgb[index], code[index], pose[index]), camera

        chosen = rng.permutation(np.arange(HEADINGS, k))[: rng.integers(1, k - HEADINGS + 1)]
        data = memory.empty(1)
        for i in chosen:
            frame, camera = part([int(i)])
            data = memory.integrate(data, frame, camera, torch.tensor([0]))
        frame, camera = part(range(HEADINGS))
        known = [memory.render(data, one) for one in _single(camera)]
        joined = type(known[0])(
            *(torch.cat([getattr(v, f.name) for v in known]) for f in dataclasses.fields(known[0]))
        )
        others, other_camera = part([int(i) for i in chosen])
        views = Views(frame, camera, joined, others, other_camera)
        whole = memory.empty(1)
        for one, at in zip(_frames(frame), _single(camera), strict=True):
            whole = memory.integrate(whole, one, at, torch.tensor([0]))
        attributes = dict(zip(sets.names, sets.attributes[s].mean(0).tolist(), strict=True))
        found.append(Place(views, memory.trim(whole), attributes))
    return found


def _single(camera: Camera) -> list[Camera]:
    return [
        Camera(camera.pose[i : i + 1], camera.intrinsics[i : i + 1], camera.height, camera.width)
        for i in range(len(camera.pose))
    ]


def _frames(frame: Frame) -> list[Frame]:
    assert frame.inverse_depth is not None and frame.pose is not None
    return [
        Frame(frame.rgb[i : i + 1], frame.inverse_depth[i : i + 1], frame.pose[i : i + 1])
        for i in range(len(frame.rgb))
    ]


def inputs_of(place: Place, painter: NetworkPainter | None) -> PaintInputs | None:
    """What a painter receives for the headings of a place."""
    if painter is None:
        return None
    views = place.views
    assert views.known is not None
    return PaintInputs(
        view=views.known,
        pose=views.camera.pose[None],
        seed=torch.zeros(1, dtype=torch.int64),
        step=torch.zeros(1, dtype=torch.int64),
        attributes=torch.tensor([[place.attributes[name] for name in painter.spec.attributes]]),
    )


def measured(places: Sequence[Place]) -> dict[str, np.ndarray]:
    """All measures of all views and places."""
    found: dict[str, list[float]] = {}
    for place in follow(places, "measuring", "place"):
        for name, measure in {**GEOMETRIC, **PICTORIAL}.items():
            found.setdefault(name, []).extend(measure(place.views).tolist())
        found.setdefault("room", []).append(checks.room(place.points, place.views.camera.pose[0]))
        found.setdefault("floor", []).append(float(checks.floor_missing(place.views).mean()))
    return {name: np.array(values) for name, values in found.items()}


def errors_of(places: Sequence[Place], painter: NetworkPainter) -> np.ndarray:
    """Denoising errors of all views."""
    return np.concatenate(
        [
            painter.score(inputs_of(place, painter), place.views.frame).cpu().numpy()
            for place in follow(places, "denoising", "place")
        ]
    )


def bounds_of(name: str, value: np.ndarray, quantile: float) -> Bounds:
    """Quantile of real views as a bound."""
    known = value[np.isfinite(value)]
    beyond = SHARES.get(name, quantile)
    if SIDES[name] == "least":
        return Bounds(least=round(float(np.quantile(known, beyond)), 4))
    most = float(np.quantile(known, 1.0 - beyond))
    return Bounds(most=round(max(LEAST_SCALE, most) if name == "scale" else most, 4))


def thresholds_of(values: Mapping[str, np.ndarray], sets: ViewSets, quantile: float) -> Thresholds:
    """Quantiles of real views as bounds."""
    bounds = {name: bounds_of(name, value, quantile) for name, value in values.items()}
    _, _, h, w, _ = sets.rgb.shape
    views = len(sets) * HEADINGS
    lens = tuple(round(float(x), 4) for x in sets.intrinsics)
    return Thresholds(FORMAT, 1, h, w, lens, bounds, quantile, views, len(set(sets.maps)))  # type: ignore[arg-type]


def caught_views(
    place: Place, fault: Fault, severity: float, validator: Validator, rng: np.random.Generator
) -> tuple[list[list[str]], list[str]]:
    """Names of the checks that each faulty view fails, and of those that the place fails.

    All views are faulty at once; the displaced views and the memory are real.
    """
    views = place.views
    bad = fault.plant(views.frame, views.camera, severity, rng)
    whole = dataclasses.replace(views, frame=bad)
    found = validator.views(whole, inputs_of(place, validator.painter))
    names = [[v.name for v in verdicts if not v.passed] for verdicts in found]
    if not fault.place:
        return names, []
    data = PointMemory(PointMemoryConfig(capacity=place.points.capacity * 2 + 40_000))
    points = data.empty(1)
    for frame, camera in zip(_frames(bad), _single(views.camera), strict=True):
        points = data.integrate(points, frame, camera, torch.tensor([0]))
    told = validator.place(points, whole)
    return names, [v.name for v in told if not v.passed]


def share(flags: Sequence[bool], group: int) -> list[float]:
    """Mean with a 95% interval over places (bootstrap)."""
    values = np.array(flags, np.float64).reshape(-1, group)
    low, high = bootstrap_ci(mean_statistic(list(values)), len(values))
    return [round(float(values.mean()), 4), round(low, 4), round(high, 4)]


def count_names(names: Sequence[Sequence[str]]) -> dict[str, float]:
    """Share of the views that fail each check."""
    count: dict[str, int] = {}
    for view in names:
        for name in set(view):
            count[name] = count.get(name, 0) + 1
    return {k: round(n / len(names), 4) for k, n in sorted(count.items(), key=lambda i: -i[1])}


def refused(places: Sequence[Place], validator: Validator) -> dict[str, object]:
    """Real views and places that the validator refuses."""
    views, rooms = [], []
    for place in follow(places, "real places", "place"):
        for verdicts in validator.views(place.views, inputs_of(place, validator.painter)):
            views.append([v.name for v in verdicts if not v.passed])
        rooms.append([v.name for v in validator.place(place.points, place.views) if not v.passed])
    return {
        "views": share([bool(v) for v in views], HEADINGS),
        "by_check": count_names(views),
        "places": share([bool(v) for v in rooms], 1),
        "places_by_check": count_names(rooms),
    }


def main(config: Config) -> None:
    """Set thresholds on train maps, and measure on test maps."""
    painters = [NetworkPainter.from_pretrained(folder) for folder in config.painters]
    train, test = (read(folder, config.sets) for folder in (config.train, config.test))
    assert not set(train.maps) & set(test.maps)
    if config.thresholds is None:
        seen = places_of(train, config.seed)
        thresholds = thresholds_of(measured(seen), train, config.quantile)
        for painter in painters:
            bound = bounds_of(SCORE, errors_of(seen, painter), config.quantile)
            thresholds.denoising[painter.weights_id] = bound
    else:
        thresholds = from_json(Thresholds, read_json(config.thresholds))
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "validator.json", to_json(thresholds))
    validator = Validator(thresholds, painter=painters[0] if painters else None)
    places = places_of(test, config.seed + 1)
    found: dict[str, object] = {
        "train": {"views": len(train) * HEADINGS, "maps": len(set(train.maps))},
        "test": {"views": len(test) * HEADINGS, "maps": len(set(test.maps))},
        "quantile": config.quantile,
        "true_refused": refused(places, validator),
    }
    write_json(config.out / "measured.json", found)
    print(json.dumps(found["true_refused"]), flush=True)
    faults: dict[str, object] = {}
    for name in config.faults:
        fault = FAULTS[name]
        ladder = {}
        for severity in fault.ladder:
            rng = np.random.default_rng([config.seed, 7, len(faults), round(1000 * severity)])
            views, rooms = [], []
            for place in (places[i] for i in _spread(len(places), config.fault_sets)):
                of_views, of_place = caught_views(place, fault, severity, validator, rng)
                views += of_views
                rooms.append(of_place)
            entry: dict[str, object] = {
                "views": share([bool(v) for v in views], HEADINGS),
                "by_check": count_names(views),
            }
            if fault.place:
                entry |= {
                    "places": share([bool(v) for v in rooms], 1),
                    "places_by_check": count_names(rooms),
                }
            ladder[f"{severity:g}"] = entry
            print(name, severity, json.dumps(entry), flush=True)
        faults[name] = {"unit": fault.unit, "required": f"{fault.required:g}", "ladder": ladder}
        write_json(config.out / "measured.json", {**found, "faults": faults})
    found["faults"] = faults
    if config.dreams is not None:
        found["dreams"] = dreams(config.dreams, validator)
        print(json.dumps(found["dreams"]), flush=True)
    write_json(config.out / "measured.json", found)


def read(folder: Path, count: int) -> ViewSets:
    """Read ``count`` sets, evenly spread over at most :data:`MOST_SHARDS` shards of a folder."""
    files = shard_files(folder)
    files = [files[i] for i in _spread(len(files), MOST_SHARDS)]
    return join([_some(load_view_sets(path), -(-count // len(files))) for path in files])


def _spread(n: int, count: int) -> list[int]:
    """At most ``count`` of ``n`` numbers, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int)).tolist()


def _some(sets: ViewSets, count: int) -> ViewSets:
    at = _spread(len(sets), count)
    arrays = ("rgb", "inverse_depth", "pose", "attributes")
    parts = {name: getattr(sets, name)[at] for name in arrays}
    return dataclasses.replace(sets, **parts, maps=tuple(sets.maps[i] for i in at))


def dreams(path: Path, validator: Validator) -> dict[str, object]:
    """Share of a world's last dreamed frames, and of the true ones, that are refused."""
    found: dict[str, object] = {}
    names = [name for name in validator.names if name in PICTORIAL and name != "colour_conflict"]
    only = Validator(validator.thresholds, names)
    for kind, rgb in load_tensors(path).items():
        last = rgb[:, -1]
        frame = Frame(last, torch.ones(len(last), *last.shape[2:], dtype=torch.int32), None)
        camera = Camera(
            torch.eye(4).expand(len(last), 4, 4), torch.ones(len(last), 4), *last.shape[2:]
        )
        verdicts = only.views(Views(frame, camera))
        failed = [[v.name for v in view if not v.passed] for view in verdicts]
        found[kind] = {
            "refused": share([not passed(v) for v in verdicts], 1),
            "by_check": count_names(failed),
        }
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
