r"""Whether planted shifts of actions are found: 20 recordings of five environments, each as it is
and with its actions moved by -2, -1, 1 and 2 frames, and with those of other episodes.

    python experiments/recordings/action_lag.py --work runs/lag \
        --json experiments/recordings/action_lag.json

Needs the extras doom and tasks, and ``pip install ale-py minigrid``. Recordings are made once and
kept in ``--work``; each has one of four policies.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.action_lag import SHIFTS, ActionLag, measure_action_lag
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.data.record import RecordConfig, record
from worldsim.runtime.json_config import write_json

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "worldsim/FreedoomReal-v0": {"reset_options": {"split": "train"}},
    "ALE/Freeway-v5": {"size": (64, 64)},
    "LunarLander-v3": {"render": True, "size": (64, 64), "env_kwargs": {"continuous": True}},
    "MiniGrid-FourRooms-v0": {"render": True, "size": (64, 64)},
    "CarRacing-v3": {"size": (64, 64)},
}
POLICIES = ("persistent", "random", "sticky", "mix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    # What is planted is what is warned of.
    warnings.simplefilter("ignore", UserWarning)
    rows = []
    for seed, policy in enumerate(POLICIES):
        for env_id, settings in ENVIRONMENTS.items():
            out = args.work / f"{env_id.rpartition('/')[2]}-{policy}"
            dataset = record(
                RecordConfig(
                    env_id,
                    out,
                    frames=args.frames,
                    workers=0,
                    policy=policy,
                    seed=seed,
                    min_travel=0.0,
                    **settings,
                )
            )
            row = {"env_id": env_id, "policy": policy, "seed": seed, **examine(dataset)}
            rows.append(row)
            print(row["env_id"], row["policy"], row["found"], flush=True)
    caught = [row["found"] == {str(s): s for s in SHIFTS} for row in rows]
    unseen = [set(row["found"].values()) == {None} for row in rows]
    results = {
        "frames": args.frames,
        "recordings": len(rows),
        "all_planted_shifts_found": sum(caught),
        "said_to_have_no_visible_effect": sum(unseen),
        "false_alarms_unshifted": sum(row["found"]["0"] not in (0, None) for row in rows),
        "effects_of_strangers_actions": sum(row["found_of_strangers"] is not None for row in rows),
        "rows": rows,
    }
    print({key: value for key, value in results.items() if key != "rows"})
    if args.json is not None:
        write_json(args.json, results)


def examine(dataset: EpisodeDataset) -> dict[str, Any]:
    """The shifts that are found, and the gains of the recording as it is."""
    found: dict[str, int | None] = {}
    gains: dict[str, float] = {}
    for by in SHIFTS:
        lag = measure_planted(list(dataset), by)
        found[str(by)] = lag.shift
        if by == 0:
            gains = {str(s): gain for s, gain in lag.gains.items()}
    strangers = measure_action_lag(exchange([e for e in dataset if len(e) > 40]))
    told = {str(s): gain for s, gain in strangers.gains.items()}
    return {
        "found": found,
        "gains": gains,
        "found_of_strangers": strangers.shift,
        "gains_of_strangers": told,
    }


def exchange(episodes: list[Episode]) -> list[Episode]:
    """Every episode with the actions of the one before, as long as both last."""
    found = []
    for episode, other in zip(episodes, [episodes[-1], *episodes[:-1]], strict=True):
        t = min(len(episode), len(other))
        act = np.array(other.act[:t])
        act[-1] = 0
        fields = {name: getattr(episode, name)[:t] for name in ("rgb", "rew", "term", "trunc")}
        found.append(
            dataclasses.replace(
                episode, act=act, inverse_depth=None, pose=None, intrinsics=None, **fields
            )
        )
    return found


def measure_planted(episodes: list[Episode], by: int) -> ActionLag:
    """The lag of episodes whose actions are moved ``by`` frames later."""
    return measure_action_lag([plant(e, by) for e in episodes if len(e) > 8 + abs(by)])


def plant(episode: Episode, by: int) -> Episode:
    """The episode with its actions ``by`` frames later, without frames whose action is unknown."""
    t = len(episode)
    part = slice(max(by, 0), t + min(by, 0))
    act = np.array(episode.act)
    act[:-1] = np.roll(act[:-1], by, axis=0)
    act = act[part].copy()
    act[-1] = 0
    fields = {name: getattr(episode, name)[part] for name in ("rgb", "rew", "term", "trunc")}
    return dataclasses.replace(
        episode, act=act, inverse_depth=None, pose=None, intrinsics=None, **fields
    )


if __name__ == "__main__":
    main()
