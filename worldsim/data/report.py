"""What a recording holds, and whether a world can learn from it.

A world learns rewards and terminations only if they occur often enough in its recording, and
learns the wrong thing if actions and frames are shifted against each other. Neither raises an error
in training, so both are measured and warned of before it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import gymnasium as gym
import numpy as np

from worldsim.data.action_lag import ActionLag, measure_action_lag, spread
from worldsim.data.dataset import DatasetInfo, EpisodeDataset
from worldsim.data.episode import Episode, measure_alignment
from worldsim.data.remote import open_dataset, put_index
from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import to_json, write_json
from worldsim.runtime.progress import say
from worldsim.runtime.spaces import space_of
from worldsim.runtime.types import Array, JsonObject

FEWEST_EVENTS = 200
"""Rewards and terminations that a recording should hold at least: docs/experiments/recordings.md
shows how well heads learn from fewer."""
MOST_FROZEN = 0.5
"""Share of steps without any change of the frame above which a warning says so."""
BINS = 10
"""Bins of a continuous action's histogram, between its bounds, or what was seen of an action
without bounds."""
PICTURE_STEPS = 20_000
"""Steps, spread over the recording, whose frames are looked at."""
QUICK_STEPS = 1000
"""Steps of a recording without a report of which training measures the lag of actions."""
OPEN_LOOP = ("random", "persistent", "persistent-v1", "sticky")
"""Policies that do not look at what they cause: their actions tell the lag best."""


@dataclass(frozen=True)
class Events:
    """Steps that differ from the usual one."""

    count: int
    """Their number."""
    per_thousand: float
    """Their number per thousand steps."""


@dataclass(frozen=True)
class RewardReport(Events):
    """Rewards; a step is an event if its reward differs from the usual one."""

    usual: float
    """The reward of more than half of all steps; 0 if there is none."""
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class FrameReport:
    """Frames, of :data:`PICTURE_STEPS` steps spread over the recording."""

    steps: int
    """Steps that were looked at."""
    frozen: float
    """Share of steps that change no pixel."""
    one_colour: float
    """Share of frames whose pixels are all alike."""
    brightness: float
    """Mean of all pixels, in [0, 255]."""
    contrast: float
    """Standard deviation over the pixels of a frame, mean over frames, in [0, 255]."""
    change: float
    """Mean absolute difference between a frame and the next, in [0, 255]."""
    still: float
    """Share of a frame's pixels whose colours are those of the frame before, mean over steps."""


@dataclass(frozen=True)
class RecordingReport:
    """What a recording holds."""

    frames: int
    episodes: int
    steps: int
    """Transitions: frames without the first of each episode."""
    episode_steps: tuple[int, float, int]
    """Steps of the shortest episode, of the mean one, and of the longest."""
    rewards: RewardReport
    terminations: Events
    truncations: Events
    policies: dict[str, JsonObject]
    """By policy of a mix: its ``episodes``, ``steps``, reward ``events`` and ``terminations``."""
    actions: list[JsonObject]
    """Histograms. Of a Discrete space one, with the ``share`` of each action; of a Box one for each
    dimension, with the ``share`` of each bin, ``low``, ``high``, ``mean`` and ``std``."""
    pictures: FrameReport
    action_lag: ActionLag
    notes: list[str] = field(default_factory=list)
    """Sentences on what the recording lacks, perhaps on purpose."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on what will go wrong in training, each with the next step."""

    def text(self) -> str:
        """Return the report as lines to print, without the warnings."""
        shortest, mean, longest = self.episode_steps
        rewards, pictures, lag = self.rewards, self.pictures, self.action_lag
        lines = [
            f"{self.frames:,} frames, {self.episodes:,} episodes of {shortest} to {longest} steps "
            f"(mean {mean:.1f})",
            f"rewards: {rewards.count:,} steps ({rewards.per_thousand:.2f} per thousand) other "
            f"than the usual {rewards.usual:g}; {rewards.lowest:g} to {rewards.highest:g}, mean "
            f"{rewards.mean:.4g}",
            f"ends: {self.terminations.count:,} terminations "
            f"({self.terminations.per_thousand:.2f} per thousand), {self.truncations.count:,} "
            f"truncations ({self.truncations.per_thousand:.2f})",
            *(f"policy {name}: {_told(values)}" for name, values in self.policies.items()),
            *(f"actions{_of(i, self.actions)}: {_bars(one)}" for i, one in enumerate(self.actions)),
            f"frames: {pictures.frozen:.1%} of steps change no pixel, {pictures.still:.0%} of the "
            f"pixels stay as they are, mean change {pictures.change:.2f} of 255; brightness "
            f"{pictures.brightness:.0f}, contrast {pictures.contrast:.0f}, "
            f"{pictures.one_colour:.1%} of one colour",
            "action lag: "
            + (
                lag.note
                or f"{lag.shift:+d} (share of the action that the change explains, by shift, "
                + ", ".join(f"{s:+d}: {g:.1%}" for s, g in lag.gains.items())
                + ")"
            ),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class ReportConfig:
    """Say what a recording holds, and whether a world can learn from it."""

    data: str | Path
    """Folder of the recording, or its URL."""
    json: Path | None = None
    """File for the report, as JSON."""


def report(config: ReportConfig) -> RecordingReport:
    """Print the report of a recording, and its warnings.

    Raises NotFoundError or DamagedFileError.
    """
    found = measure_recording(open_dataset(config.data))
    if config.json is not None:
        write_json(config.json, to_json(found))
    print(found.text())
    for sentence in found.warnings:
        print(f"warning: {sentence}")
    return found


def add_report(dataset: EpisodeDataset) -> RecordingReport:
    """Measure a recording, store the report in its ``dataset.json``, and warn.

    The dataset's own ``info`` is updated, too.
    """
    found = measure_recording(dataset)
    info = dataclasses.replace(dataset.info, report=to_json(found))
    if info != dataset.info:
        put_index(dataset.place, info, dataset.shards)
        dataset.info = info
    for sentence in found.warnings:
        warnings.warn(f"{dataset.info.env_id or dataset.place}: {sentence}", stacklevel=3)
    return found


def finish_import(out: Path) -> EpisodeDataset:
    """Report on a recording that was just written, and return it."""
    # Its shards were written a moment ago: their checksums are compared once, at the end.
    say(add_report(EpisodeDataset(out, verify=False)).text())
    return EpisodeDataset(out)


def training_warnings(dataset: EpisodeDataset) -> list[str]:
    """Return what training on a recording should be warned of.

    A complete recording's stored report says it. Of another one, perhaps still under way, only the
    order of actions and frames is measured.
    """
    told = dataset.info.report
    sentences = told.get("warnings")
    if told.get("frames") == dataset.frames and isinstance(sentences, list):
        # From a file: control characters could rewrite the terminal.
        return ["".join(filter(str.isprintable, str(one))) for one in sentences]
    if not len(dataset):
        return []
    return _shifts(measure_action_lag(_telling(dataset), QUICK_STEPS), dataset)


def measure_recording(dataset: EpisodeDataset) -> RecordingReport:
    """Measure what a recording holds. Raises InvalidInputError if it is empty."""
    if not len(dataset):
        raise InvalidInputError(f"{dataset.place} holds no episodes yet: record more")
    info = dataset.info
    act, rew, term, trunc, lengths, policies = _transitions(dataset)
    rewards, events = _rewards(rew)
    terminations, truncations = (
        Events(int(x.sum()), _per_thousand(x.sum(), len(x))) for x in (term, trunc)
    )
    lag = measure_action_lag(_telling(dataset))
    found = RecordingReport(
        frames=dataset.frames,
        episodes=len(lengths),
        steps=len(rew),
        episode_steps=(int(lengths.min()), round(float(lengths.mean()), 2), int(lengths.max())),
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        policies=_by_policy(policies, lengths, events, term),
        actions=_histograms(act, info),
        pictures=_pictures(dataset),
        action_lag=lag,
    )
    return dataclasses.replace(
        found, notes=_notes(found, dataset), warnings=_warnings(found, dataset)
    )


def _transitions(
    dataset: EpisodeDataset,
) -> tuple[Array, Array, Array, Array, Array, list[str]]:
    """Return ``act``, ``rew``, ``term``, ``trunc`` of all steps.

    After them, the steps of each episode and the policy of each, "" where it is not stored.
    """
    parts: dict[str, list[Array]] = {name: [] for name in ("act", "rew", "term", "trunc")}
    lengths, policies = [], []
    for index in dataset.readable:
        arrays, infos = dataset.load_shard(index)
        starts = arrays["episode_start"]
        real = np.ones(int(starts[-1]), bool)
        # No transition follows an episode's last frame.
        real[starts[1:] - 1] = False
        for name, values in parts.items():
            values.append(arrays[name][real])
        lengths.append(np.diff(starts) - 1)
        policies += [str(one.get("policy", "")) for one in infos]
    act, rew, term, trunc = (np.concatenate(values) for values in parts.values())
    return act, rew, term, trunc, np.concatenate(lengths), policies


def _telling(dataset: EpisodeDataset) -> Sequence[Episode]:
    """Return the episodes of policies that do not look, or all if there are none."""
    chosen = _blind(dataset)
    return _Chosen(dataset, chosen) if 0 < len(chosen) < len(dataset) else dataset


def _blind(dataset: EpisodeDataset) -> list[int]:
    """Return the indices of the episodes of policies that do not look."""
    policies = [info.get("policy", dataset.info.policy) for info in dataset.infos()]
    return [i for i, policy in enumerate(policies) if policy in OPEN_LOOP]


class _Chosen(Sequence[Episode]):
    """Some episodes of a dataset, each read when it is asked for."""

    def __init__(self, dataset: EpisodeDataset, indices: list[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...

    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [self._dataset[i] for i in self._indices[index]]
        return self._dataset[self._indices[index]]


def _rewards(rew: Array) -> tuple[RewardReport, Array]:
    """Return the report of rewards, and which steps are events."""
    values, counts = np.unique(rew, return_counts=True)
    # Where rewards are dense, none is usual.
    usual = values[counts.argmax()] if 2 * counts.max() > len(rew) else np.float32(0.0)
    events = rew != usual
    found = RewardReport(
        count=int(events.sum()),
        per_thousand=_per_thousand(events.sum(), len(rew)),
        usual=float(usual),
        mean=round(float(rew.astype(np.float64).mean()), 6),
        lowest=float(values[0]),
        highest=float(values[-1]),
    )
    return found, events


def _per_thousand(count: float, steps: int) -> float:
    return round(1000.0 * float(count) / steps, 4)


def _by_policy(
    names: list[str], lengths: Array, events: Array, term: Array
) -> dict[str, JsonObject]:
    """Return the counts of each policy; empty if no episode names one."""
    owner = np.repeat(np.array(names), lengths)
    return {
        name: {
            "episodes": names.count(name),
            "steps": int((owner == name).sum()),
            "events": int(events[owner == name].sum()),
            "terminations": int(term[owner == name].sum()),
        }
        for name in sorted(set(names) - {""})
    }


def _histograms(act: Array, info: DatasetInfo) -> list[JsonObject]:
    space = space_of(info.action_space)
    if isinstance(space, gym.spaces.Discrete):
        counts = np.bincount(act, minlength=int(space.n))
        return [{"share": _rounded(counts / len(act))}]
    flat = act.reshape(len(act), -1).astype(np.float64)
    assert isinstance(space, gym.spaces.Box)
    bounds = np.stack([space.low.ravel(), space.high.ravel()], 1).astype(np.float64)
    seen = np.stack([flat.min(0), flat.max(0)], 1)
    bounds = np.where(np.isfinite(bounds), bounds, seen)
    return [
        {
            "share": _rounded(_shares(values, low, high)),
            "low": float(low),
            "high": float(high),
            "mean": round(float(values.mean()), 6),
            "std": round(float(values.std()), 6),
        }
        for values, (low, high) in zip(flat.T, bounds, strict=True)
    ]


def _shares(values: Array, low: float, high: float) -> Array:
    """Return the share of each bin; the outer ones hold what lies beyond."""
    place = (values - low) / max(high - low, 1e-12) * BINS
    counts = np.bincount(np.clip(place, 0, BINS - 1).astype(np.int64), minlength=BINS)
    return counts / len(values)


def _rounded(values: Array) -> list[float]:
    return [round(float(x), 4) for x in values]


def _pictures(dataset: EpisodeDataset) -> FrameReport:
    steps = frames = frozen = one_colour = 0
    brightness = contrast = change = still = 0.0
    for episode in spread(dataset, PICTURE_STEPS):
        rgb = np.asarray(episode.rgb)
        steps, frames = steps + len(rgb) - 1, frames + len(rgb)
        # Frame by frame: an episode as float would take eight times its memory.
        for i, frame in enumerate(rgb):
            brightness += float(frame.mean())
            contrast += float(frame.std())
            one_colour += int((frame == frame[0, 0]).all())
            if i:
                difference = np.abs(frame.astype(np.int16) - rgb[i - 1])
                frozen += int(not difference.any())
                change += float(difference.mean())
                still += float((~difference.any(-1)).mean())
    return FrameReport(
        steps=steps,
        frozen=round(frozen / steps, 4),
        one_colour=round(one_colour / frames, 4),
        brightness=round(brightness / frames, 2),
        contrast=round(contrast / frames, 2),
        change=round(change / steps, 3),
        still=round(still / steps, 4),
    )


def _notes(found: RecordingReport, dataset: EpisodeDataset) -> list[str]:
    notes = []
    lag = found.action_lag
    if lag.shift and _explained(lag, dataset):
        notes.append(
            f"the environment shows an action's effect {-lag.shift} frame"
            f"{'s' if lag.shift < -1 else ''} late; worlds learn that from earlier actions"
            if lag.shift < 0
            else "the policy answers to what it sees, so the lag of its actions cannot be told: "
            "--policy mix adds episodes that tell it"
        )
    rewards = found.rewards
    if rewards.count == 0:
        what = "no rewards" if rewards.usual == 0 else f"every reward is {rewards.usual:g}"
        notes.append(f"{what}: if the environment has others, the policy never met them")
    if found.terminations.count == 0:
        notes.append("no terminations: if the environment has some, the policy never met them")
    for i, one in enumerate(found.actions):
        if "low" in one:
            if one["std"] == 0 and one["low"] < one["high"]:
                notes.append(f"action{_of(i, found.actions)} is always {one['mean']:g}")
        elif missing := [str(a) for a, share in enumerate(one["share"]) if share == 0]:
            notes.append(f"never taken: action {', '.join(missing)}")
    return notes


def _warnings(found: RecordingReport, dataset: EpisodeDataset) -> list[str]:
    told = []
    for name, events in (("rewards", found.rewards), ("terminations", found.terminations)):
        if 0 < events.count < FEWEST_EVENTS:
            needed = found.frames * FEWEST_EVENTS / events.count
            told.append(
                f"{events.count} {'unusual ' if name == 'rewards' else ''}{name} in "
                f"{found.steps:,} steps are too rare to learn; {FEWEST_EVENTS} are needed. Record "
                f"some {_about(needed)} frames (--frames), or with --policy mix, or with an agent "
                f"that meets more of them (--mix AGENT 1 random 1)"
            )
    if found.pictures.frozen > MOST_FROZEN:
        told.append(
            f"{found.pictures.frozen:.0%} of steps change no pixel, and teach a world to stand "
            f"still: skip frames in the environment, or use a policy that moves (--policy mix)"
        )
    return told + _shifts(found.action_lag, dataset)


def _shifts(lag: ActionLag, dataset: EpisodeDataset) -> list[str]:
    """Return what is wrong with the order of actions, frames and poses."""
    told = list(measure_alignment(dataset).problems) if dataset.info.geometry else []
    if lag.problem and not _explained(lag, dataset) and not any("Actions" in x for x in told):
        told.append(lag.problem)
    if lag.gains and lag.shift is None:
        told.append(
            "actions have no visible effect: a world of this recording will ignore them. Look at "
            "a film of it; record more frames, other actions (--policy mix), or larger images "
            "(--size), if what moves is small"
        )
    return told


def _explained(lag: ActionLag, dataset: EpisodeDataset) -> bool:
    """Return whether the environment or the policy, and not the recording, shifts the actions.

    The recorder stores an action with the frame that it answers. So an early shift is a delay of
    the environment, and a late one comes from a policy that answers to what it sees.
    """
    if not lag.shift or "episode_steps" not in dataset.info.recording:
        return False
    return lag.shift < 0 or not _blind(dataset)


def _about(number: float) -> str:
    """Return a number with two digits that count."""
    digits = 10 ** max(0, len(str(int(number))) - 2)
    return f"{-(-int(number) // digits) * digits:,}"


def _told(values: JsonObject) -> str:
    return (
        f"{values['episodes']:,} episodes, {values['steps']:,} steps, {values['events']:,} unusual "
        f"rewards, {values['terminations']:,} terminations"
    )


def _of(index: int, actions: list[JsonObject]) -> str:
    return f"[{index}]" if len(actions) > 1 else ""


def _bars(one: JsonObject) -> str:
    shares = " ".join(f"{100 * share:.0f}" for share in one["share"])
    if "low" not in one:
        return f"{shares} %"
    return f"{shares} % from {one['low']:g} to {one['high']:g}, mean {one['mean']:.3g}"
