"""Painters by name: only users give it, only safetensors are read, and no folder runs code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pipelines import tiny_depth, tiny_inpainting
from worldsim.camera import default_intrinsics
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    UntrustedFileError,
)
from worldsim.painting.inpaint import InpaintConfig
from worldsim.painting.pretrained import (
    INDEX,
    PICTURE_SPEC,
    load_diffusers_painter,
    painter_by_name,
)
from worldsim.protocols import PainterSpec, PromptPainter
from worldsim.testing import check_painter

SPEC = PainterSpec(32, 32, default_intrinsics(32, 32), views=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders ``pipeline`` and ``depth``."""
    pytest.importorskip("transformers", reason="needs the extra painter")
    folder = tmp_path_factory.mktemp("saved")
    tiny_inpainting(folder / "tokenizer").save_pretrained(folder / "pipeline")
    depth = tiny_depth()
    depth.model.save_pretrained(folder / "depth")
    depth.image_processor.save_pretrained(folder / "depth")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def load(folder: Path, **settings: Any) -> Any:
    name = f"diffusers:{folder / 'pipeline'},{folder / 'depth'}"
    return load_diffusers_painter(name, SPEC, device="cpu", **settings)


def test_a_painter_is_loaded_by_name(saved: Path) -> None:
    painter = load(saved, prompt="a hall", inpaint=InpaintConfig(num_inference_steps=2))
    assert painter.prompt == "a hall" and not painter.depth.metric
    check_painter(painter)


def change_index(folder: Path, **values: object) -> None:
    path = folder / "pipeline" / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"unet": ["evil", "UNet2DConditionModel"]},
        {"extra": ["os.path", "join"]},
        {"scheduler": ["importlib", "import_module"]},
        {"_class_name": ["my_pipeline", "MyPipeline"]},
    ],
)
def test_an_index_names_no_other_libraries(
    values: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    (folder / "pipeline" / "my_pipeline.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(folder))
    change_index(folder, **values)
    with pytest.raises(UntrustedFileError, match="model_index.json"):
        load(folder)
    assert "evil" not in sys.modules


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    """A file beside a part's weights, and the class that a model's config names."""
    (folder / "pipeline" / "unet" / "diffusers.py").write_text("raise SystemExit('imported')")
    with pytest.raises(DamagedFileError, match="trust_remote_code"):
        load(folder)
    (folder / "pipeline" / "unet" / "diffusers.py").unlink()
    (folder / "depth" / "evil.py").write_text("raise SystemExit('imported')")
    config = json.loads((folder / "depth" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "depth" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamagedFileError, match="depth"):
        load(folder)


def test_weights_that_can_run_code_are_not_read(folder: Path) -> None:
    unet = folder / "pipeline" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(DamagedFileError, match="cannot be loaded"):
        load(folder)


def test_weights_of_half_precision_alone_are_found(folder: Path) -> None:
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = folder / "pipeline" / part / f"{name}.safetensors"
        path.rename(path.with_name(f"{name}.fp16.safetensors"))
    vae = folder / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert load(folder).call.takes_prompt


def test_a_pipeline_of_other_parts_is_named(folder: Path) -> None:
    change_index(folder, _class_name="FluxPipeline")
    with pytest.raises(DamagedFileError, match="inpainting pipeline"):
        load(folder)
    change_index(folder, _class_name="Nothing")
    with pytest.raises(DamagedFileError, match="'Nothing'"):
        load(folder)


def test_a_text_pipeline_becomes_an_inpainting_one(folder: Path) -> None:
    """The parts of Stable Diffusion are the same; only the class differs."""
    change_index(folder, _class_name="StableDiffusionPipeline")
    painter = load(folder)
    assert painter.call.name == "StableDiffusionInpaintPipeline"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("freedoom-painter", InvalidInputError),
        ("diffusers:only-one", InvalidInputError),
        ("diffusers:,depth", InvalidInputError),
        ("diffusers:nowhere,nowhere", NotFoundError),
        ("diffusers:hub:mine,hub:me/depth", InvalidInputError),
    ],
)
def test_bad_names_say_what_to_write(name: str, error: type[Exception]) -> None:
    pytest.importorskip("transformers", reason="needs the extra painter")
    with pytest.raises(error, match=r"hub:owner/name"):
        load_diffusers_painter(name)


def test_one_function_loads_every_kind_of_painter(saved: Path) -> None:
    name = f"diffusers:{saved / 'pipeline'},{saved / 'depth'}"
    painter = painter_by_name(name, device="cpu")
    assert isinstance(painter, PromptPainter) and painter.spec == PICTURE_SPEC
    with pytest.raises(NotFoundError, match="shipped painter"):
        painter_by_name("no-such-painter")


def test_folders_that_hold_something_else(folder: Path) -> None:
    (folder / "pipeline" / INDEX).unlink()
    with pytest.raises(NotFoundError, match=INDEX):
        load(folder)


def test_the_hub_gives_a_checked_commit(saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The index is checked before anything else is downloaded, and the rest is of its commit."""
    asked: list[tuple[str, str | None, object]] = []
    for part in ("pipeline", "depth"):
        shutil.copytree(saved / part, tmp_path / f"models--me--{part}" / "snapshots" / "0123abc")

    def download(name: str, revision: str | None = None, **settings: Any) -> str:
        asked.append((name, revision, settings.get("use_safetensors")))
        return str(tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / "0123abc")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    load_diffusers_painter("diffusers:hub:me/pipeline@v1,hub:me/depth", SPEC, device="cpu")
    assert asked == [
        ("me/pipeline", "v1", None),
        ("me/pipeline", "0123abc", True),
        ("me/depth", None, None),
    ]
    asked.clear()
    index = tmp_path / "models--me--pipeline" / "snapshots" / "0123abc" / INDEX
    index.write_text(json.dumps({"_class_name": ["evil", "Evil"]}))
    with pytest.raises(UntrustedFileError):
        load_diffusers_painter("diffusers:hub:me/pipeline,hub:me/depth", SPEC, device="cpu")
    assert [name for name, _, _ in asked] == ["me/pipeline"]


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"\[painter\]"):
        load_diffusers_painter("diffusers:a,b")


def test_the_default_views_are_square() -> None:
    assert (PICTURE_SPEC.height, PICTURE_SPEC.width, PICTURE_SPEC.attributes) == (512, 512, ())
    assert PICTURE_SPEC.intrinsics == pytest.approx((256.0, 256.0, 256.0, 256.0))
