r"""Choose and measure in a training for words. Results: docs/experiments/words.md.

    python experiments/painter/words_trained.py scale --teacher OUT/teacher --out scale.json DATA
    python experiments/painter/words_trained.py student --student OUT/student/state \
        --folder OUT --out student.json DATA
    python experiments/painter/words_trained.py measure --painter OUT/shipped --out words.json DATA
    python experiments/painter/words_trained.py best --painter PAINTER --recogniser FOLDER \
        --out best.json DATA

DATA is ``--train LOOKS --test LOOKS --before PAINTER --prior TABLE``. ``scale`` chooses the
teacher's guidance scale on tuning prompts, and the weights from which a student starts. ``student``
chooses between its average and last weights, and writes it in 8 bits. ``measure`` compares it with
the painter before. ``best`` compares candidates, steps and ways of guidance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor
from words_arms import Arm, Ground, copies, stretched
from words_arms import Config as ArmsConfig

from worldsim.painting.checkpoint import Saved, load_painter, save_painter
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.sampling import PaintConfig
from worldsim.painting.training.widen import widen
from worldsim.runtime.json_config import write_json

MOST_FD = 1.1
"""Arms whose FD with all attributes of real places is above this times the smallest are not
chosen."""
PART_BYTES = 14_000_000
"""Size limit of a part of a painter's weights."""
AS_NOW = stretched(share=2.0, plain=True)
"""How prompts are completed before the training."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all parts share."""

    train: Path
    """Look-arounds of train maps, for the probe."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """JSON file of the results. Features of the recordings are kept beside it."""
    before: Path = Path("worldsim/worlds/freedoom-painter")
    """The painter before the training, a student."""
    prior: Path = Path("worldsim/worlds/freedoom-painter")
    """Folder of the attribute table from which prompts are drawn and completed."""
    train_places: int = 8192
    test_places: int = 768
    prompts: int = 200
    tune_prompts: int = 100
    epochs: int = 60
    """Of the probe."""
    batch: int = 50
    """Places painted at once."""
    seconds: float = 600.0
    """No arm begins after this time."""
    sheets: Path | None = None
    """Folder of the pictures of the first 16 places of each measured arm."""

    def ground(self, painter: Path, other: Path, recogniser: Path | None = None) -> Ground:
        """Return what arms share, with the painter, and another one as "teacher"."""
        return Ground(
            ArmsConfig(
                train=self.train,
                test=self.test,
                out=self.out.with_name("features.json"),
                prior=self.prior,
                painter=painter,
                teacher=other,
                recogniser=recogniser,
                train_places=self.train_places,
                test_places=self.test_places,
                prompts=self.prompts,
                tune_prompts=self.tune_prompts,
                epochs=self.epochs,
                batch=self.batch,
                sheets=self.sheets,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Scale(Common):
    """Choose the teacher's guidance scale, and the student's start."""

    state: Path
    """Folder of the trained teacher's checkpoint, whose last weights are used."""
    old_teacher: Path
    """The teacher from which its training started, and from which ``before`` was distilled."""
    folder: Path
    """The teacher and the student's start are written to ``teacher`` and ``start`` here."""
    scales: tuple[tuple[float, float], ...] = ((4.0, 1.5), (6.0, 1.5), (2.5, 2.5), (4.0, 4.0))
    """Scales of guidance, and of guidance near noise."""
    steps: int = 16
    """Sampling steps of the teacher."""


@dataclass(frozen=True, kw_only=True)
class Student(Common):
    """Choose a student's weights, and write it in 8 bits."""

    state: Path
    """Folder of the student's checkpoint."""
    folder: Path
    """The 8-bit painter is written to ``shipped`` here, and its 16-bit weights to ``half``."""


@dataclass(frozen=True, kw_only=True)
class Measure(Common):
    """Measure a painter beside the one before."""

    painter: Path
    recogniser: Path | None = None
    """Folder of the recogniser, which compares candidates."""
    pool: int = 4
    """Candidates of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Ask(Measure):
    """Compare ways to ask the trained painter, on tuning prompts, and measure the best ones."""

    most_fd: float = 1.25
    """Ways whose FD is above this times that of the first are not measured."""
    best: int = 3
    """Ways that are measured."""


@dataclass(frozen=True, kw_only=True)
class Best(Measure):
    """Measure candidates, 12 steps and guidance, the most important ones first."""


class Record:
    """Figures by arm, written after each. Arms that are there are not measured again."""

    def __init__(self, config: Common) -> None:
        self.path, self.seconds, self.begun = config.out, config.seconds, time.monotonic()
        self.found: dict = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def do(self, name: str, make: Callable[[], dict]) -> dict | None:
        """Measure an arm; None if the time is over."""
        if name not in self.found:
            if time.monotonic() - self.begun > self.seconds:
                return None
            self.found[name] = make()
            self.write()
        part = self.found[name]
        brief = {key: part.get(key) for key in ("accuracy", "ratio", "unseen", "fd", "sharpness")}
        print(f"{time.monotonic() - self.begun:.0f} s, {name}: {brief}", flush=True)
        return part

    def write(self) -> None:
        """Write all figures."""
        write_json(self.path, self.found)


def write_ready(
    folder: Path, saved: Saved, weights: dict[str, Tensor], like: Saved, sampling: PaintConfig
) -> None:
    """Write weights as a painter with the view sizes of ``like``."""
    settings = saved.card["settings"]
    spec = replace(like.spec(), attributes=tuple(settings["attributes"]))
    told = {"step": saved.card["step"]}
    save_painter(folder, settings, weights, told=told, spec=spec, sampling=sampling)
    packed = folder.with_name(f"{folder.name}8")
    save_painter(
        packed,
        settings,
        weights,
        told=told,
        eight_bit=True,
        part_bytes=PART_BYTES,
        spec=spec,
        sampling=sampling,
    )


def start_of(teacher: Saved, old_teacher: Saved, student: Saved) -> dict[str, Tensor]:
    """Return the student's weights moved as its teacher's were by the training."""
    names = teacher.card["settings"]["attributes"]
    moved, old, new = (
        widen(old_teacher, names).network(average=False).state_dict(),
        widen(student, names).network().state_dict(),
        teacher.network(average=False).state_dict(),
    )
    return {
        name: old[name] + (value - moved[name]) if name in old else value
        for name, value in new.items()
    }


def with_sampling(ground: Ground, **changes: object) -> None:
    """Change the sampling settings of the painter."""
    painter = ground.painter(False)
    painter.config = replace(painter.config, **changes)  # type: ignore[arg-type]


def choose_scale(config: Scale) -> None:
    """Measure scales and starts, and write what was chosen."""
    saved, before = load_painter(config.state), load_painter(config.before)
    teacher, start = config.folder / "teacher", config.folder / "start"
    network = saved.network(average=False)
    write_ready(teacher, saved, network.state_dict(), before, PaintConfig(config.steps))
    moved = start_of(saved, load_painter(config.old_teacher), before)
    write_ready(start, saved, moved, before, before.sampling())
    record = Record(config)
    record.found.setdefault("scale", list(config.scales[0]))
    record.found.setdefault("start", "start")
    record.write()
    ground = config.ground(teacher, start)
    student = {"num_inference_steps": before.sampling().num_inference_steps, "solver": "euler"}
    with_sampling(ground, guidance_scale=1.0, noise_guidance_scale=None, **student)
    plain = record.do("start: the teacher", lambda: copies(ground))
    painted, ground.painters[False] = ground.painter(False), ground.painter(True)
    sum_ = record.do("start: the student moved", lambda: copies(ground))
    ground.painters[False] = painted
    if plain and sum_ and plain["fd"] < sum_["fd"]:
        record.found["start"] = "teacher"
    record.write()
    with_sampling(ground, num_inference_steps=config.steps, solver="dpmsolver++")
    ways = {"completed": Arm(AS_NOW), "named": Arm(named_only=True)}
    rows: dict[tuple[float, float], tuple[float, float]] = {}
    for scales in config.scales:
        with_sampling(ground, guidance_scale=scales[0], noise_guidance_scale=scales[1])
        own = record.do(f"copies, scale {scales}", lambda: copies(ground))
        if own is None:
            break
        ratios = [0.0]
        for way, arm in ways.items():
            made = record.do(f"{way}, scale {scales}", lambda arm=arm: ground.measure(arm, "tune"))
            ratios.append(made["ratio"] if made else 0.0)
        rows[scales] = (own["fd"], max(ratios))
        least = min(fd for fd, _ in rows.values())
        good = {s: ratio for s, (fd, ratio) in rows.items() if fd <= MOST_FD * least}
        record.found["scale"] = list(max(good, key=good.__getitem__))
        record.write()
    print(json.dumps({key: record.found[key] for key in ("scale", "start")}), flush=True)


def choose_student(config: Student) -> None:
    """Write the student with the better weights in 8 bits."""
    saved = load_painter(config.state)
    record = Record(config)

    def write(average: bool, name: str = "shipped") -> None:
        network = saved.network(average=average)
        save_painter(
            config.folder / name,
            network.settings,
            network.state_dict(),
            told={
                "step": saved.card["step"],
                "distilled": saved.card.get("distilled"),
                "weights": "average" if average else "last",
            },
            eight_bit=name == "shipped",
            part_bytes=PART_BYTES,
            spec=saved.spec(),
            sampling=saved.sampling(),
        )

    found = {}
    write(True)
    shipped = config.folder / "shipped"
    ground = config.ground(shipped, config.before)
    for name, average in (("last", False), ("average", True)):
        write(average)
        ground.painters[False] = NetworkPainter.from_pretrained(shipped, device=ground.device)
        part = record.do(f"copies, {name}", lambda: copies(ground))
        if part is not None:
            found[name] = part["fd"]
    best = min(found, key=found.__getitem__) if found else "average"
    for name in ("shipped", "half"):
        write(best == "average", name)
    record.found["weights"] = best
    record.write()


def measure(config: Measure) -> None:
    """Measure arms: completions are chosen on tuning prompts."""
    record = Record(config)
    ground = config.ground(config.painter, config.before, config.recogniser)
    record.found["real"] = {
        "accuracy": round(float(ground.accuracy[ground.measured].mean()), 4),
        "by_attribute": {
            name: round(float(x), 4)
            for name, x, m in zip(ground.prior.names, ground.accuracy, ground.measured, strict=True)
            if m
        },
    }
    ways = {
        "as now": AS_NOW,
        "plain": stretched(plain=True),
        "completed": stretched(),
    }
    arms = {name: Arm(way) for name, way in ways.items()}
    arms |= {
        "named": Arm(named_only=True),
        "named, doubled": Arm(stretched(share=2.0), named_only=True),
    }
    before = replace(arms["as now"], teacher=True)
    record.do("before, as now", lambda: ground.measure(before, "measured", "before"))
    ratios = {}
    for name, arm in arms.items():
        if found := record.do(f"tune: {name}", lambda arm=arm: ground.measure(arm, "tune")):
            ratios[name] = found["ratio"]
    chosen = max(ratios, key=ratios.__getitem__) if ratios else "as now"
    record.found["chosen"] = chosen
    order = [chosen, *(name for name in arms if name != chosen)]
    more = {name: arms[name] for name in order[:3]}
    if config.recogniser is not None:
        more[f"{chosen}, candidates"] = replace(arms[chosen], pool=config.pool)
    more[f"{chosen}, away 1.5"] = replace(arms[chosen], contrast=1.5)
    more[f"{chosen}, away 2"] = replace(arms[chosen], contrast=2.0)
    more |= {name: arms[name] for name in order[3:]}
    record.do("copies", lambda: copies(ground))
    for name, arm in more.items():
        file = name.replace(",", "").replace(" ", "-")
        record.do(name, lambda arm=arm, file=file: ground.measure(arm, "measured", file))
    ground.painters[False] = NetworkPainter.from_pretrained(config.before, device=ground.device)
    record.do("copies, before", lambda: copies(ground))


def ask(config: Ask) -> None:
    """Compare ways to ask."""
    record = Record(config)
    ground = config.ground(config.painter, config.before, config.recogniser)
    now = Arm(AS_NOW)
    ways = {
        "as now": now,
        "shares 3 times": Arm(stretched(share=3.0, plain=True)),
        "shares 1.5 times": Arm(stretched(share=1.5, plain=True)),
        "scales 1.5 times": Arm(stretched(scale=1.5, share=2.0, plain=True)),
        "named, no striking": Arm(AS_NOW, named_only=True, striking=True),
        "away 1.5": replace(now, contrast=1.5),
        "away 2": replace(now, contrast=2.0),
        "away 3": replace(now, contrast=3.0),
        "unnamed 1.5": replace(now, contrast=1.5, against="unnamed"),
        "unnamed 2": replace(now, contrast=2.0, against="unnamed"),
        "away 2, 3 steps": replace(now, contrast=2.0, contrast_steps=3),
        "away 3, 2 steps": replace(now, contrast=3.0, contrast_steps=2),
        "away 2, named, no striking": Arm(AS_NOW, named_only=True, striking=True, contrast=2.0),
        "away 2, shares 3 times": Arm(stretched(share=3.0, plain=True), contrast=2.0),
        "guidance 1.5": replace(now, guidance=1.5),
    }
    found: dict[str, dict] = {}
    for name, arm in ways.items():
        if part := record.do(f"tune: {name}", lambda arm=arm: ground.measure(arm, "tune")):
            found[name] = part
    most = config.most_fd * found["as now"]["fd"]
    good = {name: part["ratio"] for name, part in found.items() if part["fd"] <= most}
    order = sorted(good, key=good.__getitem__, reverse=True)[: config.best]
    record.found["order"] = order
    record.write()
    for i, name in enumerate(order):
        arm, file = ways[name], f"ask-{i}"
        record.do(name, lambda arm=arm, file=file: ground.measure(arm, "measured", file))
        if config.recogniser is not None and i == 0:
            pooled = replace(arm, pool=config.pool)
            record.do(
                f"{name}, candidates",
                lambda arm=pooled: ground.measure(arm, "measured", "ask-candidates"),
            )


def best(config: Best) -> None:
    """Measure arms on the 200 prompts; what is chosen on tuning prompts comes after that."""
    record = Record(config)
    ground = config.ground(config.painter, config.before, config.recogniser)
    record.found["real"] = {
        "accuracy": round(float(ground.accuracy[ground.measured].mean()), 4),
        "interval": ground.real_interval(),
        "by_attribute": ground.named_accuracy(),
        "train_places": len(ground.train),
        "test_places": len(ground.test),
    }
    record.found["prompts"] = ground.prompts["measured"].texts
    now, pool = Arm(AS_NOW), config.pool if config.recogniser else 1
    finer = replace(now, steps=12)
    towards = {"contrast": 1.5, "against": "unnamed"}
    arms: dict[str, tuple[str, Arm]] = {
        "8 steps": ("measured", now),
        "12 steps": ("measured", finer),
        f"12 steps, {pool} candidates": ("measured", replace(finer, pool=pool)),
        "12 steps, towards 1.5": ("measured", replace(finer, **towards)),
        "tune: 12 steps": ("tune", finer),
        "tune: 12 steps, each 1.25": ("tune", replace(finer, contrast=1.25, against="each")),
        "tune: 12 steps, each 1.5": ("tune", replace(finer, contrast=1.5, against="each")),
        "tune: 12 steps, towards 1.5": ("tune", replace(finer, **towards)),
        "12 steps, each 1.25": ("measured", replace(finer, contrast=1.25, against="each")),
        f"12 steps, towards 1.5, {pool} candidates": (
            "measured",
            replace(finer, pool=pool, **towards),
        ),
        f"8 steps, {pool} candidates": ("measured", replace(now, pool=pool)),
        "10 steps": ("measured", replace(now, steps=10)),
    }
    record.do("copies", lambda: copies(ground))
    for name, (kind, arm) in arms.items():
        file = name.replace(",", "").replace(" ", "-")
        record.do(name, lambda arm=arm, kind=kind, file=file: ground.measure(arm, kind, file))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    chosen = tyro.cli(Scale | Student | Measure | Ask | Best)
    if isinstance(chosen, Scale):
        choose_scale(chosen)
    elif isinstance(chosen, Student):
        choose_student(chosen)
    elif isinstance(chosen, Ask):
        ask(chosen)
    elif isinstance(chosen, Best):
        best(chosen)
    else:
        measure(chosen)
