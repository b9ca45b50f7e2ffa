"""Train a small Wan-VACE and a small Stable Video Diffusion on a recording, and measure them.

    worldsim record worldsim/FreedoomReal-v0 --out DATA --frames 200000 --episode-steps 160 \
        --policy experiments.pretrained_training.policy:OutAndBack --reset-options split train
    python -m experiments.pretrained_training --data DATA --out OUT --part wan --minutes 20
    python -m experiments.pretrained_training --data DATA --out OUT --part svd --minutes 6
    python -m experiments.pretrained_training --out OUT --part evaluate --json results.json

Each part resumes where it was interrupted, and writes curves and weights while it trains. See
docs/experiments/pretrained.md for the results.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from diffusers.utils import logging

from experiments.pretrained_training import (
    autoencoder,
    depth,
    evaluate,
    stable_video,
    training,
    wan_vace,
    windows,
)
from worldsim.pretrained.adapter import ClipConfig
from worldsim.pretrained.loading import model_of
from worldsim.pretrained.wan_vace import video_and_mask
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.json_config import write_json


@dataclass(frozen=True)
class Args:
    """Settings."""

    out: Path
    """Folder of weights, curves and scores."""
    part: Literal["wan", "decoder", "svd", "trips", "evaluate", "report"] = "wan"
    """What the process does. wan: train autoencoder, depth estimator and transformer of Wan-VACE.
    decoder: train the autoencoder's decoder further, for the latents that are there. svd: train
    Stable Video Diffusion. trips: record the return trips. evaluate: measure a share of them with
    what was trained so far. report: collect the shares."""
    data: Path | None = None
    """The recording."""
    minutes: float = 18.0
    """Time of a part that trains, with loading and rendering."""
    shares: tuple[float, float] = (0.0, 0.05)
    """Shares of the time for autoencoder and depth estimator; the rest is the main network's. The
    autoencoder of Wan-VACE is lossless without training, that of Stable Video Diffusion is not."""
    svd_share: float = 0.22
    """The same for the autoencoder of Stable Video Diffusion."""
    frames: int = 200_000
    """Frames that are read, at most."""
    windows: int = 120_000
    """Windows that are rendered, at most."""
    encoded: int = 30_000
    """Windows that are encoded at once, for the transformer."""
    memories: int = 256
    """Memories that are rendered at once."""
    batch: int | None = None
    """Batch size of every training; by default each one's own."""
    steps: int | None = None
    """Steps of every training, for rehearsals."""
    width: int = 32
    """Width of the video autoencoder."""
    blocks: int = 1
    """Residual blocks per resolution of the video autoencoder."""
    wan: wan_vace.Sizes = field(default_factory=wan_vace.Sizes)
    """Sizes of the transformer."""
    svd: stable_video.Sizes = field(default_factory=stable_video.Sizes)
    """Sizes of Stable Video Diffusion."""
    decoder: str = "wan-vae"
    """Folder, below ``out``, of the decoder that is evaluated."""
    depth_width: int = 32
    """Width of the depth estimator."""
    dropout: float = 0.2
    """Share of windows in whose training the memory shows nothing."""
    compile: bool = True
    """Compile the transformer on a GPU."""
    num_inference_steps: int = 4
    """Sampling steps in evaluation."""
    models: tuple[str, ...] = ("wan", "svd")
    """Models that are evaluated."""
    trips: int = 32
    """Number of return trips."""
    workers: int = 1
    """Processes that record trips."""
    shard: int = 0
    """This process's share of the trips ..."""
    shards: int = 1
    """... of so many."""
    label: str = "final"
    """Folder of an evaluation's scores, below ``out``."""
    json: Path | None = None
    """File for the report."""
    device: str | None = None
    """By default the GPU if there is one."""


def _sized(args: Args) -> dict[str, Any]:
    batch = {} if args.batch is None else {"batch": args.batch}
    return {"steps": args.steps, **batch}


def _recording(args: Args, device: torch.device) -> windows.Recording:
    if args.data is None:
        raise SystemExit("--data DATA is needed to train: a folder of `worldsim record`.")
    recording = windows.load_recording(args.data, device, args.frames)
    print(f"{len(recording.rgb)} frames, {len(recording.first)} episodes", flush=True)
    return recording


def _windows(args: Args, recording: windows.Recording) -> windows.Windows:
    begun = time.perf_counter()
    found = windows.render_windows(
        recording, wan_vace.PAST, wan_vace.FRAMES, 1, args.windows, args.memories, seed=1
    )
    known = float(found.known.float().mean())
    seconds = time.perf_counter() - begun
    print(f"{len(found)} windows, {known:.2f} known, {seconds:.0f} s", flush=True)
    return found


def train_wan(args: Args, device: torch.device) -> None:
    """Train autoencoder, depth estimator and transformer."""
    begun, total = time.perf_counter(), 60.0 * args.minutes
    recording = _recording(args, device)
    vae = autoencoder.make_lossless(autoencoder.build(args.width, args.blocks)).to(device)
    folder = args.out / "wan-vae"
    if args.shares[0]:
        autoencoder.train(vae, recording, folder, args.shares[0] * total, **_sized(args))
    else:
        autoencoder.store_statistics(vae, recording, folder)
        training.save_weights(dict(vae.named_parameters()), folder)
    vae = autoencoder.load(folder, device, width=args.width, blocks=args.blocks)
    network = depth.build(args.depth_width).to(device)
    depth.train(network, recording, args.out / "depth", args.shares[1] * total, **_sized(args))
    rendered = _windows(args, recording)
    transformer = wan_vace.build(args.wan).to(device)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    past, _ = windows.past_and_future(recording, rendered, index, wan_vace.PAST)
    video, mask = video_and_mask(past, rendered.control[:1], rendered.known[:1])
    wan_vace.check_conditions(wan_vace.pipeline_of(vae, transformer), video, mask)
    left = total - (time.perf_counter() - begun)
    wan_vace.train(
        transformer,
        vae,
        recording,
        rendered,
        args.out / "wan",
        max(left, 1.0),
        dropout=args.dropout,
        count=args.encoded,
        compiled=args.compile,
        **_sized(args),
    )


def train_decoder(args: Args, device: torch.device) -> None:
    """Train the decoder further, into the folder ``wan-decoder``."""
    begun = time.perf_counter()
    recording = _recording(args, device)
    vae = autoencoder.load(args.out / "wan-vae", device, width=args.width, blocks=args.blocks)
    left = 60.0 * args.minutes - (time.perf_counter() - begun)
    folder = args.out / "wan-decoder"
    autoencoder.train_decoder(vae, recording, folder, max(left, 1.0), **_sized(args))
    autoencoder.store_statistics(vae, recording, folder)


def train_svd(args: Args, device: torch.device) -> None:
    """Train autoencoder and network of Stable Video Diffusion."""
    begun, total = time.perf_counter(), 60.0 * args.minutes
    recording = _recording(args, device)
    vae = stable_video.build_autoencoder(args.svd).to(device)
    folder = args.out / "svd-vae"
    seconds = args.svd_share * total
    stable_video.train_autoencoder(vae, recording, folder, seconds, **_sized(args))
    vae = stable_video.load_autoencoder(folder, args.svd, device)
    rendered = _windows(args, recording)
    networks = stable_video.build_networks(args.svd).to(device)
    left = total - (time.perf_counter() - begun)
    stable_video.train(
        networks,
        vae,
        recording,
        rendered,
        args.out / "svd",
        max(left, 1.0),
        past=wan_vace.PAST,
        dropout=args.dropout,
        **_sized(args),
    )


def load_models(args: Args, device: torch.device) -> dict[str, Any]:
    """Return the trained models with the depth estimator."""
    estimator = depth.SmallDepth.load(args.out / "depth", device, width=args.depth_width)
    found: dict[str, Any] = {}
    if "wan" in args.models:
        vae = autoencoder.load(args.out / "wan-vae", device, width=args.width, blocks=args.blocks)
        if args.decoder != "wan-vae":
            training.load_weights(autoencoder.decoding_parts(vae), args.out / args.decoder)
        transformer = wan_vace.build(args.wan)
        training.load_weights(transformer, args.out / "wan")
        pipeline = wan_vace.pipeline_of(vae, transformer.to(device).eval())
        clip = ClipConfig(wan_vace.PAST, wan_vace.FRAMES, args.num_inference_steps)
        model = model_of(pipeline, clip, {"prompt_embeds": wan_vace.prompt(device)})
        found["wan"] = (model, estimator)
    if "svd" in args.models:
        vae = stable_video.load_autoencoder(args.out / "svd-vae", args.svd, device)
        networks: Any = stable_video.build_networks(args.svd)
        training.load_weights(networks, args.out / "svd")
        pipeline = stable_video.pipeline_of(vae, networks.to(device).eval())
        clip = ClipConfig(past=1, frames=1, num_inference_steps=args.num_inference_steps)
        found["svd"] = (model_of(pipeline, clip), estimator)
    return found


def main(args: Args) -> None:
    """Run one part."""
    device = resolve_device(args.device)
    # The pipeline of Wan-VACE warns at every call of an autoencoder that does not compress time.
    logging.set_verbosity_error()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if args.part == "wan":
        train_wan(args, device)
    elif args.part == "decoder":
        train_decoder(args, device)
    elif args.part == "svd":
        train_svd(args, device)
    elif args.part == "trips":
        evaluate.record_trips(args.trips, args.workers, args.out / "trips")
    elif args.part == "evaluate":
        trips = evaluate.record_trips(args.trips, 1, args.out / "trips")
        models = load_models(args, device)
        with contextlib.ExitStack() as stack:
            if "wan" in models:
                vae = models["wan"][0].pipeline.vae
                stack.enter_context(autoencoder.as_flat_convolutions(vae))
            evaluate.measure(trips, models, args.out / args.label, args.shard, args.shards)
    else:
        results = evaluate.collect(args.out / args.label)
        results["num_inference_steps"] = args.num_inference_steps
        if args.json is not None:
            write_json(args.json, results)
        for name, row in {**results["rows"], **results["differences"]}.items():
            print(f"{name:<24} {row['mean']:7.2f} {row['ci95']}")


if __name__ == "__main__":
    main(tyro.cli(Args))
