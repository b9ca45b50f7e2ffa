r"""Compare ways in which a painter follows words. Results: docs/experiments/words.md.

    python experiments/painter/words_arms.py --train /tmp/train --test /tmp/test \
        --out words_arms.json --recogniser FOLDER [--teacher FOLDER --sheets FOLDER]

All arms paint the prompts of ``words.py`` and are measured by its probe. Scales are chosen first,
on other prompts with other seeds and cameras ("tune"). An interrupted run resumes after its last
arm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from words import (
    DRAWS,
    HEADINGS,
    SHOWN,
    UNCLEAR,
    Labels,
    Probe,
    Prompts,
    Seen,
    amounts_of,
    balanced,
    draw_prompts,
    drawn_weights,
    empty_view,
    features,
    interval,
    look_at,
    measurable,
    named,
    sheet,
    train_probe,
)

from worldsim.evaluation.encoder import FOLDER, FrameEncoder, encode, load_encoder
from worldsim.evaluation.frechet import frechet_distance
from worldsim.evaluation.metrics import sharpness
from worldsim.painting.channels import unscale
from worldsim.painting.network import PainterBatch
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.words.attributes import AttributePrior, CompletionConfig
from worldsim.painting.words.recogniser import AttributeRecogniser, load_recogniser
from worldsim.painting.words.vocabulary import STRIKING
from worldsim.protocols import PaintInputs
from worldsim.runtime.files import load_tensors, save_tensors
from worldsim.runtime.json_config import write_json

PICTURES = 256
"""Real test places with which the look of painted ones is compared."""
MOST_FD = 1.5
"""Arms whose FD is above this times today's are not chosen."""
TUNE_SEED = 7
"""Seed of the prompts on which scales are chosen."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    train: Path
    """Look-arounds of train maps, for the probe."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """JSON file of the results; a file beside it keeps the features of the recordings."""
    prior: Path = Path("worldsim/worlds/freedoom-painter")
    """Folder of the attribute table."""
    painter: Path = Path("worldsim/worlds/freedoom-painter")
    """Folder of the painter."""
    teacher: Path | None = None
    """Folder of the painter that it was distilled from."""
    recogniser: Path | None = None
    """Folder of the recogniser."""
    train_places: int = 8192
    """Places to learn from, at most."""
    test_places: int = 768
    """Places of the reference, at most."""
    prompts: int = 200
    """Measured prompts."""
    tune_prompts: int = 100
    """Prompts on which scales are chosen."""
    batch: int = 25
    """Places painted at once."""
    pool: int = 4
    """Candidates of a prompt."""
    epochs: int = 60
    """Of the probe."""
    seconds: float = 600.0
    """No arm begins after this time."""
    sheets: Path | None = None
    """Folder of the pictures of the first 16 places of each measured arm."""
    only: tuple[str, ...] = ()
    """Names of the measured arms; all by default."""


@dataclass(frozen=True)
class Arm:
    """One way to paint what words ask for."""

    completion: CompletionConfig = field(default_factory=CompletionConfig)
    teacher: bool = False
    steps: int | None = None
    guidance: float | None = None
    """Guidance by all attributes, as ``PaintConfig.guidance_scale``."""
    named_only: bool = False
    """Whether only what is named is given."""
    striking: bool = False
    """Whether the absence of striking attributes that are not named is given, too."""
    contrast: float = 1.0
    """Scale of guidance away from ``against``."""
    against: str = "opposite"
    """"opposite": the wanted attributes reversed; "unnamed": they are not given; "each": one
    difference for each wanted attribute, to the place without it (Liu et al. 2022, "Compositional
    visual generation with composable diffusion models")."""
    contrast_steps: int = 1000
    """First steps that are guided away."""
    gradient: float = 0.0
    """Change of the predicted channels along the recogniser's gradient, root mean square."""
    gradient_steps: int = 5
    pool: int = 1
    """Candidates of each prompt."""


class Steered(nn.Module):
    """A painter's network with guidance away from other attributes, and by a recogniser.

    It is told by ``begin`` what the places of the next painting are like.
    """

    def __init__(self, network: nn.Module, arm: Arm, recogniser: AttributeRecogniser | None):
        super().__init__()
        self.network, self.arm = network, arm
        self.__dict__["recogniser"] = recogniser

    def begin(self, unlike: Tensor, unlike_told: Tensor, wanted: list[dict[str, float]]) -> None:
        """Set the attributes to guide away from, which are given, and what is wanted.

        unlike, unlike_told: (k, b, a); the differences to the ``k`` others are added.
        """
        self.unlike, self.unlike_told, self.wanted = unlike, unlike_told, wanted
        self.step = 0
        self.agreements: list[Tensor] = []

    def forward(self, batch: PainterBatch) -> Tensor:
        """See :class:`worldsim.painting.network.PainterNetwork`."""
        clean = self.network(batch)
        arm = self.arm
        if arm.contrast != 1.0 and self.step < arm.contrast_steps:
            own = clean
            for unlike, told in zip(self.unlike, self.unlike_told, strict=True):
                away = self.network(replace(batch, attributes=unlike, known=told))
                clean = clean + (arm.contrast - 1.0) * (own - away)
        if self.recogniser is not None and arm.gradient > 0 and self.step < arm.gradient_steps:
            clean = self._climb(clean)
        if self.recogniser is not None:
            self.agreements.append(self._agreement(clean).mean(1).exp())
        self.step += 1
        return clean

    def _agreement(self, clean: Tensor) -> Tensor:
        """Return the mean logarithm of the wanted attributes' probabilities, (b, 1)."""
        rgb = unscale(clean)[:, :, :3].clamp(-1.0, 1.0)
        logits = self.recogniser(rgb).float()
        return torch.stack([score(self.recogniser, logits[i : i + 1], w) for i, w in self._each()])

    def _each(self) -> list[tuple[int, dict[str, float]]]:
        return list(enumerate(self.wanted))

    def _climb(self, clean: Tensor) -> Tensor:
        with torch.enable_grad():
            x = clean.detach().float().requires_grad_()
            (slope,) = torch.autograd.grad(self._agreement(x).sum(), x)
        size = slope.square().mean((1, 2, 3, 4), keepdim=True).sqrt().clamp(min=1e-12)
        return clean + self.arm.gradient * slope / size


def score(recogniser: AttributeRecogniser, logits: Tensor, wanted: Mapping[str, float]) -> Tensor:
    """Return the mean logarithm of the probabilities (b,) that places show what is wanted."""
    found = recogniser.agreement(logits, wanted)
    return torch.stack([p.clamp(min=1e-4).log() for p in found.values()]).mean(0)


@dataclass(frozen=True)
class Painted:
    """Paintings of ``p`` prompts: rgb (p, 8, 3, h, w), codes, and the recogniser's agreement with
    the predictions of all steps and with the result, (p, steps + 1)."""

    rgb: Tensor
    code: Tensor
    agreement: Tensor
    seconds: float


class Ground:
    """What all arms share: recordings, the probe, prompts and painters."""

    def __init__(self, config: Config) -> None:
        self.config, self.begun = config, time.monotonic()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder: FrameEncoder = load_encoder(FOLDER, self.device)
        self.prior = AttributePrior.from_pretrained(config.prior)
        self.labels = Labels(self.prior)
        self.recogniser = (
            None if config.recogniser is None else load_recogniser(config.recogniser, self.device)
        )
        self.train, self.test, self.real = self._recordings()
        label = self.labels.of(self.train.attributes)
        label_test = self.labels.of(self.test.attributes).numpy()
        self.probe: Probe = train_probe(self.train.features, label, config.epochs, 0, self.device)
        with torch.no_grad():
            self.said_test = self.probe(self.test.features).numpy() > 0
        self.measured, self.unrecognised, self.accuracy = measurable(
            self.said_test, label, label_test
        )
        rng = np.random.default_rng(0)
        weights = [drawn_weights(rng, len(label_test)) for _ in range(DRAWS)]
        self.real_draws = [
            np.nanmean(balanced(self.said_test, label_test, w)[self.measured]) for w in weights
        ]
        table = torch.from_numpy(self.prior.table / 255.0).float()
        self.prompts = {
            "measured": draw_prompts(self.labels, table, self.measured, config.prompts, 0),
            "tune": draw_prompts(self.labels, table, self.measured, config.tune_prompts, TUNE_SEED),
        }
        self.wanted = {
            name: [
                amounts_of(text, self.prior.names, row)
                for text, row in zip(prompts.texts, prompts.label, strict=True)
            ]
            for name, prompts in self.prompts.items()
        }
        self.painters: dict[bool, NetworkPainter] = {}

    def _recordings(self) -> tuple[Seen, Seen, Tensor]:
        """Read the recordings, or what an earlier run kept of them."""
        path = self.config.out.with_suffix(".safetensors")
        names = self.prior.names
        if not path.is_file():
            train, _ = look_at(self.config.train, self.config.train_places, self.encoder, names)
            test, rgb = look_at(
                self.config.test, self.config.test_places, self.encoder, names, PICTURES
            )
            parts = {
                f"{kind}.{name}": getattr(seen, name)
                for kind, seen in (("train", train), ("test", test))
                for name in ("features", "attributes", "pose")
            }
            kept = rgb.flatten(0, 1)
            encoded = encode(self.encoder, kept).cpu()
            sharp = sharpness(kept).mean()[None]
            save_tensors({**parts, "real": encoded, "sharpness": sharp}, path)
        saved = load_tensors(path)
        self.real_sharpness = float(saved["sharpness"])
        train, test = (
            Seen(*(saved[f"{kind}.{name}"] for name in ("features", "attributes", "pose")))
            for kind in ("train", "test")
        )
        return train, test, saved["real"]

    def painter(self, teacher: bool) -> NetworkPainter:
        """Return the painter or its teacher."""
        if teacher not in self.painters:
            folder = self.config.teacher if teacher else self.config.painter
            assert folder is not None
            self.painters[teacher] = NetworkPainter.from_pretrained(folder, device=self.device)
        return self.painters[teacher]

    def paint(self, arm: Arm, kind: str, candidate: int = 0) -> Painted:
        """Paint the prompts of a kind."""
        base, wanted = self.painter(arm.teacher), self.wanted[kind]
        names = base.spec.attributes
        rng = np.random.default_rng(TUNE_SEED if kind == "tune" else 0)
        whole, against = [], []
        for amounts in wanted:
            found = self.prior.complete(amounts, rng, arm.completion)
            whole.append(found)
            against.append(self.prior.opposite(found, amounts))
        at = [names.index(name) for name in self.prior.names]
        said = torch.tensor(
            [[float(name in amounts) for name in self.prior.names] for amounts in wanted]
        )

        def spread(values: Tensor) -> Tensor:
            row = torch.zeros(len(values), len(names))
            row[:, at] = values.float()
            return row.to(self.device)

        attributes = spread(torch.from_numpy(np.stack(whole)))
        told = spread(said if arm.named_only else torch.ones_like(said))
        if arm.striking:
            free = [n in STRIKING for n in self.prior.names]
            absent = spread(torch.tensor(free) & (said == 0))
            attributes, told = attributes * (1.0 - absent), torch.maximum(told, absent)
        if arm.against == "opposite":
            unlike, unlike_told = spread(torch.from_numpy(np.stack(against)))[None], told[None]
        elif arm.against == "each":
            # A place that names fewer attributes has differences of 0.
            rank = spread(said).cumsum(1) * spread(said)
            without = [told * (rank != k + 1) for k in range(int(rank.max()))]
            unlike_told = torch.stack(without)
            unlike = attributes.expand_as(unlike_told)
        else:
            assert arm.against == "unnamed", arm.against
            unlike, unlike_told = attributes[None], (told * (1.0 - spread(said)))[None]
        pose = self.test.pose[:, :HEADINGS]
        pose = (pose.flip(0) if kind == "tune" else pose)[torch.arange(len(wanted)) % len(pose)]
        first = 1000 * candidate + (500_000 if kind == "tune" else 0)
        network = Steered(base.network, arm, self.recogniser)
        painter = NetworkPainter(network, base.spec, base.config)  # type: ignore[arg-type]
        changes = {"num_inference_steps": arm.steps, "guidance_scale": arm.guidance}
        changes = {name: value for name, value in changes.items() if value is not None}
        rgb, code, agreement = [], [], []
        begun = time.monotonic()
        for i in range(0, len(wanted), self.config.batch):
            part = slice(i, min(i + self.config.batch, len(wanted)))
            count = part.stop - part.start
            painter.config = replace(base.config, places=count, **changes)
            network.begin(unlike[:, part], unlike_told[:, part], wanted[part])
            frame = painter.paint(
                PaintInputs(
                    view=empty_view(count * HEADINGS, base.spec, self.device),
                    pose=pose[part].to(self.device),
                    seed=torch.arange(i, i + count, device=self.device) + first,
                    step=torch.zeros(count, dtype=torch.int64, device=self.device),
                    attributes=attributes[part],
                    told=told[part] > 0,
                )
            )
            assert frame.inverse_depth is not None
            rgb.append(frame.rgb.unflatten(0, (-1, HEADINGS)).cpu())
            code.append(frame.inverse_depth.unflatten(0, (-1, HEADINGS)).cpu())
            if network.agreements:
                with torch.no_grad():
                    logits = self.recogniser(rgb[-1].to(self.device).float() / 127.5 - 1.0)
                    last = [
                        score(self.recogniser, logits[j : j + 1], w)
                        for j, w in enumerate(wanted[part])
                    ]
                agreed = [*network.agreements, torch.cat(last).exp()]
                agreement.append(torch.stack([a.cpu() for a in agreed], 1))
        return Painted(
            torch.cat(rgb),
            torch.cat(code),
            torch.cat(agreement) if agreement else torch.zeros(len(wanted), 0),
            time.monotonic() - begun,
        )

    def real_interval(self) -> list[float]:
        """Return the 95% interval of the probe's accuracy on real places."""
        return interval(self.real_draws)

    def named_accuracy(self) -> dict:
        """Return the probe's accuracy on real places by attribute that is measured."""
        return named(np.where(self.measured, self.accuracy, np.nan), self.prior.names)

    @torch.no_grad()
    def said(self, rgb: Tensor) -> np.ndarray:
        """Return what the probe says of places, (p, a) bool."""
        return self.probe(features(self.encoder, rgb)).numpy() > 0

    def look(self, rgb: Tensor) -> dict[str, float]:
        """Return how far pictures (p, 8, 3, h, w) are from real ones."""
        flat = rgb.flatten(0, 1)
        return {
            "fd": round(frechet_distance(encode(self.encoder, flat).cpu(), self.real), 1),
            "sharpness": round(float(sharpness(flat).mean()) / self.real_sharpness, 3),
        }

    def judge(self, said: np.ndarray, kind: str, intervals: bool = True) -> dict:
        """Return the balanced accuracies of what the probe says, (p, a)."""
        prompts: Prompts = self.prompts[kind]
        rng = np.random.default_rng(1)
        draws = DRAWS if intervals and kind != "tune" else 0
        weights = [drawn_weights(rng, len(said)) for _ in range(draws)]

        def mean(weight: np.ndarray | None = None) -> float:
            return float(np.nanmean(balanced(said, prompts.label, weight)[self.measured]))

        real = float(self.accuracy[self.measured].mean())
        told = {
            "accuracy": round(mean(), 4),
            "ratio": round(mean() / real, 4),
            "seen": round(mean(prompts.seen.astype(float)), 4),
            "unseen": round(mean((~prompts.seen).astype(float)), 4),
            "by_attribute": named(
                np.where(self.measured, balanced(said, prompts.label), np.nan), self.prior.names
            ),
        }
        if weights:
            means = [mean(weight) for weight in weights]
            told["interval"] = interval(means)
            told["ratio_interval"] = interval(
                [a / b for a, b in zip(means, self.real_draws, strict=True)]
            )
        right = (said == (prompts.label == SHOWN)) & (prompts.label != UNCLEAR)
        told["right"] = round(float(right.sum() / (prompts.label != UNCLEAR).sum()), 4)
        return told

    def measure(self, arm: Arm, kind: str, name: str = "") -> dict:
        """Paint and judge an arm."""
        painted = [self.paint(arm, kind, i) for i in range(arm.pool)]
        said = np.stack([self.said(p.rgb) for p in painted])
        found = self.judge(said[0], kind) | self.look(painted[0].rgb)
        found["seconds"] = round(painted[0].seconds, 2)
        if painted[0].agreement.shape[1]:
            found["recogniser"] = round(float(painted[0].agreement[:, -1].mean()), 4)
        chosen = np.zeros(len(said[0]), int)
        if arm.pool > 1:
            agreement = np.stack([p.agreement.numpy() for p in painted])
            found["chosen"], chosen = self.choices(said, agreement, painted, kind)
        if self.config.sheets is not None and name:
            self.config.sheets.mkdir(parents=True, exist_ok=True)
            first = [(painted[c].rgb[i], painted[c].code[i]) for i, c in enumerate(chosen[:16])]
            rgb, code = (torch.stack(part) for part in zip(*first, strict=True))
            sheet(rgb, code, self.config.sheets / f"{name}.png")
        return found

    def choices(
        self, said: np.ndarray, agreement: np.ndarray, painted: list[Painted], kind: str
    ) -> tuple[dict, np.ndarray]:
        """Judge rules of choice among candidates, which are known in full.

        said: (k, p, a). agreement: (k, p, steps + 1).

        Returns figures by rule, and the candidate (p,) of the largest pool by the final pictures.
        """
        k, p = said.shape[:2]
        rows = np.arange(p)
        label = self.prompts[kind].label
        told: dict[str, dict] = {}

        def take(name: str, index: np.ndarray) -> None:
            rgb = torch.stack([painted[c].rgb[i] for i, c in enumerate(index)])
            whole = "step" not in name
            told[name] = self.judge(said[index, rows], kind, whole) | self.look(rgb)

        for count in sorted({2, 3, 4, 6, k}):
            if count > k:
                continue
            take(f"best of {count}", agreement[:count, :, -1].argmax(0))
            for step in (1, 2, 3, 4, 6):
                if step < agreement.shape[2] - 1:
                    take(
                        f"best of {count} by step {step}", agreement[:count, :, step - 1].argmax(0)
                    )
        right = ((said == (label == SHOWN)) & (label != UNCLEAR)).sum(2)
        take(f"bound: the probe's own choice of {k}", right.argmax(0))
        return told, agreement[..., -1].argmax(0)


def copies(ground: Ground) -> dict:
    """Paint places with all attributes of real test places: how well does the painter obey them?"""
    base = ground.painter(False)
    count = min(ground.config.prompts, len(ground.test))
    names = base.spec.attributes
    attributes = torch.zeros(count, len(names))
    at = [names.index(name) for name in ground.prior.names]
    attributes[:, at] = ground.test.attributes[:count].float()
    told = torch.zeros(len(names), dtype=torch.bool)
    told[at] = True
    rgb = []
    for i in range(0, count, ground.config.batch):
        part = slice(i, min(i + ground.config.batch, count))
        size = part.stop - part.start
        base.config = replace(base.config, places=size)
        frame = base.paint(
            PaintInputs(
                view=empty_view(size * HEADINGS, base.spec, ground.device),
                pose=ground.test.pose[part, :HEADINGS].to(ground.device),
                seed=torch.arange(i, i + size, device=ground.device),
                step=torch.zeros(size, dtype=torch.int64, device=ground.device),
                attributes=attributes[part].to(ground.device),
                told=told.to(ground.device).expand(size, -1),
            )
        )
        rgb.append(frame.rgb.unflatten(0, (-1, HEADINGS)).cpu())
    said = ground.said(torch.cat(rgb))
    label = ground.labels.of(ground.test.attributes[:count]).numpy()
    score_of = np.where(ground.measured, balanced(said, label), np.nan)
    real = np.where(ground.measured, balanced(ground.said_test[:count], label), np.nan)
    return {
        "accuracy": round(float(np.nanmean(score_of)), 4),
        "real": round(float(np.nanmean(real)), 4),
        "by_attribute": named(score_of, ground.prior.names),
        **ground.look(torch.cat(rgb)),
    }


def stretched(scale: float = 1.0, share: float = 1.0, plain: bool = False) -> CompletionConfig:
    """Return how prompts are completed."""
    return CompletionConfig(scale_stretch=scale, share_stretch=share, plain=plain)


def tune_arms() -> dict[str, dict[str, Arm]]:
    """Return groups of arms, of each of which the best one is taken."""
    return {
        "scale": {f"{s}": Arm(stretched(scale=s)) for s in (1.0, 2.0, 4.0)},
        "share": {f"{s}": Arm(stretched(share=s)) for s in (1.0, 2.0)},
        "opposite": {f"{s}": Arm(contrast=s) for s in (2.0, 3.0, 5.0)},
        "unnamed": {f"{s}": Arm(contrast=s, against="unnamed") for s in (2.0, 3.0, 5.0)},
        "gradient": {f"{s}": Arm(gradient=s) for s in (0.1, 0.3)},
    }


def together_arms(best: Mapping[str, float], has_recogniser: bool) -> dict[str, Arm]:
    """Return combinations of what was best alone."""
    some = stretched(best["scale"], best["share"])
    plain = replace(some, plain=True)
    scale, away = max(
        (best["opposite.ratio"], best["opposite"], "opposite"),
        (best["unnamed.ratio"], best["unnamed"], "unnamed"),
    )[1:]
    contrast = Arm(plain, contrast=float(scale), against=str(away))
    arms = {
        "stretch + plain": Arm(plain),
        "stretch + contrast": replace(contrast, completion=some),
        "stretch + plain + contrast": contrast,
        "plain + contrast": replace(contrast, completion=stretched(plain=True)),
        "stretch + plain + contrast in 4 steps": replace(contrast, contrast_steps=4),
        "stretch + plain + contrast, named only": replace(contrast, named_only=True),
    }
    if has_recogniser:
        arms["stretch + plain + contrast + gradient"] = replace(contrast, gradient=best["gradient"])
    return arms


def measured_arms(best: Mapping[str, float], together: Arm, has_teacher: bool, pool: int) -> dict:
    """Return the arms that are measured, the most important ones first."""
    arms = {
        "today": Arm(),
        "together": together,
        "stretch of light and openness": Arm(stretched(scale=best["scale"])),
        "stretch of shares": Arm(stretched(share=best["share"])),
        "plain": Arm(stretched(plain=True)),
        "named only": Arm(named_only=True),
        "opposite": Arm(contrast=best["opposite"]),
        "together, candidates": replace(together, pool=pool),
        "unnamed": Arm(contrast=best["unnamed"], against="unnamed"),
        "guidance 2": Arm(guidance=2.0),
        "teacher, 25 steps, guidance 6": Arm(teacher=True),
        "today, candidates": Arm(pool=pool),
        "gradient": Arm(gradient=best["gradient"]),
        "guidance 1.5": Arm(guidance=1.5),
        "guidance 3": Arm(guidance=3.0),
    }
    if not has_teacher:
        arms = {name: arm for name, arm in arms.items() if not arm.teacher}
    if pool == 1:
        arms = {n: arm for n, arm in arms.items() if "candidates" not in n and not arm.gradient}
    return arms


def main(config: Config) -> None:
    """Tune, measure, and write the results after each arm."""
    begun = time.monotonic()
    ground = Ground(config)
    found: dict = json.loads(config.out.read_text()) if config.out.is_file() else {}
    found["real"] = {
        "train_places": len(ground.train),
        "test_places": len(ground.test),
        "accuracy": round(float(ground.accuracy[ground.measured].mean()), 4),
        "interval": interval(ground.real_draws),
        "by_attribute": named(
            np.where(ground.measured, ground.accuracy, np.nan), ground.prior.names
        ),
        "not_recognised": named(
            np.where(ground.unrecognised, ground.accuracy, np.nan), ground.prior.names
        ),
        "fd_halves": round(frechet_distance(ground.real[::2], ground.real[1::2]), 1),
    }
    found["prompts"] = {name: prompts.texts for name, prompts in ground.prompts.items()}
    print(f"ready in {time.monotonic() - begun:.1f} s: {json.dumps(found['real'])}", flush=True)

    def do(group: str, name: str, make: Callable[[], dict]) -> dict | None:
        part = found.setdefault(group, {})
        if group == "tune share" and name == "1.0":
            return found.get("tune scale", {}).get("1.0")
        if name not in part:
            if time.monotonic() - begun > config.seconds:
                return None
            part[name] = make()
            write_json(config.out, found)
            brief = {key: part[name].get(key) for key in ("accuracy", "ratio", "fd", "sharpness")}
            print(f"{time.monotonic() - begun:.0f} s, {group}, {name}: {brief}", flush=True)
        return part[name]

    do("copies", "real test places' attributes", lambda: copies(ground))
    best: dict[str, float] = {}

    def allowed(values: Mapping[str, dict | None]) -> dict[str, float]:
        """Return the accuracies of the arms whose look is not much worse than today's."""
        today = found.get("tune scale", {}).get("1.0", {}).get("fd", np.inf)
        good = {name: value for name, value in values.items() if value}
        kept = {n: v["accuracy"] for n, v in good.items() if v["fd"] <= MOST_FD * today}
        return kept or {name: value["accuracy"] for name, value in good.items()}

    for group, arms in tune_arms().items():
        if group == "gradient" and ground.recogniser is None:
            best[group] = 0.0
            continue
        values = {
            name: do(f"tune {group}", name, lambda arm=arm: ground.measure(arm, "tune"))
            for name, arm in arms.items()
        }
        ratios = allowed(values)
        best[group] = float(max(ratios, key=ratios.__getitem__)) if ratios else 1.0
        best[f"{group}.ratio"] = max(ratios.values(), default=0.0)
    combined = together_arms(best, ground.recogniser is not None)
    values = {
        name: do("tune together", name, lambda arm=arm: ground.measure(arm, "tune"))
        for name, arm in combined.items()
    }
    ratios = allowed(values)
    chosen = max(ratios, key=ratios.__getitem__) if ratios else "stretch + plain + contrast"
    found["chosen"] = {**best, "together": chosen}
    write_json(config.out, found)
    print(f"chosen: {found['chosen']}", flush=True)
    pool = config.pool if ground.recogniser is not None else 1
    arms = measured_arms(best, combined[chosen], config.teacher is not None, pool)
    for name, arm in arms.items():
        if not config.only or name in config.only:
            do("measured", name, lambda arm=arm, name=name: ground.measure(arm, "measured", name))


if __name__ == "__main__":
    main(tyro.cli(Config))
