"""The protocol as a whole: its figures, its table, resuming, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.places import (
    SPEC,
    Wallpaperer,
    made_up_sets,
    make_small_painter,
    write_places,
)
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.evaluation.evaluate import (
    PARTS,
    EvaluatePainterConfig,
    evaluate_painter,
    painter_folder,
)
from worldsim.painting.evaluation.places import places_of
from worldsim.painting.evaluation.recorded import (
    RecordSettings,
    load_test_places,
    load_train_places,
    recorded_folder,
)
from worldsim.painting.evaluation.report import ROWS
from worldsim.painting.training.store import place_attributes


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("places")
    return {
        "test": write_places(out / "test", 5, 20, "T"),
        "train": write_places(out / "train", 4, 30, "A", shards=2),
    }


def config(folders: dict[str, Path], out: Path, **changes: object) -> EvaluatePainterConfig:
    settings = {"places": 5, "world": None, "bootstrap": 50, "cache": out / "cache", **folders}
    return EvaluatePainterConfig("mine", **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], Path]:
    out = tmp_path_factory.mktemp("whole")
    settings = config(folders, out, json=out / "r.json", pictures=out / "pictures")
    return evaluate_painter(settings, Wallpaperer()), out


def test_all_figures_of_the_table_are_in_the_file(whole: tuple[dict[str, object], Path]) -> None:
    results = json.loads((whole[1] / "r.json").read_text())
    for _, key, _, _ in ROWS:
        group, _, name = key.partition(".")
        assert name in results[group], key
        if group != "time" and name != "over_world":
            low, high = results["ci95"][key]
            assert low <= high
    assert results["protocol"] == "painter/2" and results["places"] == 5
    assert len(results["test_places_sha256"]) == 64 and results["train_places"] == 8
    assert results["memorisation"]["train_frames"] == 80
    assert results["new"]["world_fd"] is None and results["new"]["over_world"] is None
    assert results["maps"] == [f"T{i}" for i in range(5)]


def test_floors_are_fd_over_the_floor(whole: tuple[dict[str, object], Path]) -> None:
    new = whole[0]["new"]
    assert isinstance(new, dict)
    assert new["floors"] == pytest.approx(new["fd"] / new["floor_fd"], abs=1e-3)
    assert new["over_inpaint"] == pytest.approx(new["fd"] / new["inpaint_fd"], abs=1e-3)


def test_sheets_and_failures_are_drawn(whole: tuple[dict[str, object], Path]) -> None:
    names = {path.name for path in (whole[1] / "pictures").iterdir()}
    sheets = {f"{name}.png" for name in ("real", "memory", "new", "completion", "joint", "single")}
    assert names == sheets | {"failures.png"}
    judged = whole[0]["validator"]
    assert isinstance(judged, dict)
    assert judged["views"] == 40 and 0 <= judged["refused"] <= 40


def test_an_interrupted_evaluation_resumes(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same figures as without an interruption, and finished batches are not painted again."""
    parts = ("completion", "memorisation")
    settings = config(folders, tmp_path, places=4, batch=2, parts=parts)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt

    stop, painter = 6, make_small_painter()
    painter.network.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt):
        evaluate_painter(settings, painter)
    # Two batches of new places take two evaluations each, because of guidance; completion one.
    assert len(list((tmp_path / "cache").glob("paintings-*/*.safetensors"))) == 3
    stop, calls = -1, 0
    resumed = evaluate_painter(settings, painter)
    assert calls == 1
    assert not list((tmp_path / "cache").glob("paintings-*"))
    again = evaluate_painter(settings, make_small_painter())
    for results in (resumed, again):
        results.pop("seconds")
    assert resumed == again


def test_parts_can_be_chosen(folders: dict[str, Path], tmp_path: Path) -> None:
    results = evaluate_painter(config(folders, tmp_path, parts=("joint",)), Wallpaperer())
    assert "joint" in results and not {"new", "depth", "time", "train_places"} & set(results)
    assert set(PARTS) >= {"joint"}


def test_train_places_are_matched_in_the_order_of_the_test_places(
    folders: dict[str, Path],
) -> None:
    pool = [made_up_sets(4, 30 + i, "A") for i in range(2)]
    attributes = torch.cat([torch.from_numpy(place_attributes(sets)) for sets in pool])
    test = places_of(made_up_sets(5, 20))
    wanted = attributes[[6, 1, 5, 0, 3]] + 0.001
    test = type(test)(test.rgb, test.code, test.pose, wanted, test.intrinsics)
    train = load_train_places(folders["train"], 8, test, SPEC)
    rgb = torch.cat([places_of(sets).rgb[:, :8] for sets in pool])
    assert torch.equal(train.matched.unflatten(0, (5, 8)), rgb[[6, 1, 5, 0, 3]])
    assert train.count == 8 and train.median_code.shape == (64, 64)


def test_places_are_recorded_once_and_the_same(tmp_path: Path) -> None:
    """Missing shards are recorded; the same seed gives the same places on every machine."""
    found = []
    for out in (tmp_path / "a", tmp_path / "b"):
        settings = RecordSettings(out, "tests.helpers.places:Survey", SPEC, 0, 60.0)
        folder = recorded_folder(settings, "test", 500, 3)
        before = [path.stat().st_mtime_ns for path in folder.iterdir()]
        assert recorded_folder(settings, "test", 500, 64) == folder and len(before) == 1
        assert [path.stat().st_mtime_ns for path in folder.iterdir()] == before
        found.append(load_test_places(folder, 3, SPEC))
    assert found[0].sha256 == found[1].sha256
    assert all(name.startswith("test") for name in found[0].maps)


def test_unfit_places_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds 5 places and 6 are asked for"):
        load_test_places(folders["test"], 6, SPEC)
    with pytest.raises(InvalidInputError, match="T1.*trained on"):
        load_test_places(folders["test"], 5, SPEC, ("T1", "X"))
    other = type(SPEC)(64, 64, SPEC.intrinsics, 8, ("brick", "lava"))
    with pytest.raises(InvalidInputError, match="does not tell the attributes lava"):
        load_test_places(folders["test"], 5, other)
    wide = type(SPEC)(64, 64, (30.0, 51.2, 32.0, 32.0), 8, SPEC.attributes)
    with pytest.raises(InvalidInputError, match="painter's camera"):
        load_test_places(folders["test"], 5, wide)
    with pytest.raises(NotFoundError, match="holds no look-arounds"):
        load_test_places(tmp_path, 5, SPEC)
    with pytest.raises(InvalidInputError, match="8 train places for 9"):
        load_train_places(folders["train"], 8, places_of(made_up_sets(9, 0)), SPEC)


def test_unfit_settings_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="places = 3: give at least 4"):
        config(folders, tmp_path, places=3)
    with pytest.raises(InvalidInputError, match="parts"):
        config(folders, tmp_path, parts=("words",))
    with pytest.raises(NotFoundError, match="no painter 'nobody'"):
        evaluate_painter(EvaluatePainterConfig("nobody", places=4))
    assert painter_folder("nobody") is None and painter_folder("freedoom-painter") is not None
