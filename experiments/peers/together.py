"""Several environments on one GPU at once: each side trains in all of them side by side.

    python -m experiments.peers.together --out runs --envs ALE/Pong-v5 CarRacing-v3 -- \
        --diamond PATH --minutes 5

What follows ``--`` is passed on to :mod:`experiments.peers.run`, for each environment in a folder
of its own. Both sides warm up (worldsim compiles) in all environments; then worldsim trains in all
of them, then DIAMOND does. Nothing else of this command uses the GPU meanwhile. Agents and
comparisons follow. The same command resumes. ``--until untrained`` only records and prepares,
``--until trained`` ends after both trainings.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from experiments.peers.run import all_stages, summarise
from experiments.peers.settings import ENVIRONMENTS, PeersConfig, mark, slug
from experiments.peers.stages import SIDES
from worldsim.errors import InvalidInputError


@dataclass(frozen=True)
class TogetherConfig:
    """Compare in several environments at once."""

    out: Path
    """Folder of folders, one for each environment."""
    envs: tuple[str, ...] = tuple(ENVIRONMENTS)
    """Environments, all at once."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that play the real environments, shared out by what each costs."""
    until: Literal["untrained", "trained", "all"] = "all"
    """``untrained`` ends when everything is recorded and prepared, ``trained`` when both sides are
    trained."""

    def __post_init__(self) -> None:
        for env in self.envs:
            if env not in ENVIRONMENTS:
                raise InvalidInputError(f"--envs {env}: choose of {', '.join(ENVIRONMENTS)}")


@dataclass(eq=False)
class Job:
    """A stage of one environment.

    needs: jobs whose results it uses.
    after: jobs that must be over, whatever came of them, before it starts.
    """

    config: PeersConfig
    stage: str
    needs: Sequence[Job] = ()
    after: Sequence[Job] = ()
    process: subprocess.Popen[bytes] | None = None
    failed: bool = False
    began: float = 0.0

    @property
    def done(self) -> bool:
        """Whether its result exists."""
        return self.process is None and self.config.result(self.stage).exists()

    @property
    def over(self) -> bool:
        """Whether it will not run any more."""
        return self.done or self.failed

    def __str__(self) -> str:
        return f"{slug(self.config.env)} {self.stage}"


@dataclass(eq=False)
class Meeting:
    """Trainings that begin their minutes together.

    after: jobs that must be over before.
    warm: trainings of another side that must be warm before, so that they do not disturb.
    """

    jobs: Sequence[Job]
    after: Sequence[Job]
    warm: Sequence[Job] = ()

    def look(self) -> None:
        """Let them go once all are warm."""
        first = self.jobs[0]
        assert first.config.meet is not None
        folder = first.config.meet
        if (folder / f"go-{first.stage}").exists() or not all(one.over for one in self.after):
            return
        both = [*self.jobs, *self.warm]
        waiting = [folder / f"ready-{one.stage}-{slug(one.config.env)}" for one in both]
        if all(one.over or file.exists() for one, file in zip(both, waiting, strict=True)):
            (folder / f"go-{first.stage}").touch()
            print(f"{first.stage}: the minutes begin", flush=True)


def plan(configs: Sequence[PeersConfig], until: str = "all") -> tuple[list[Job], list[Meeting]]:
    """Return all jobs, each after those that it waits for, and where trainings meet."""
    jobs: dict[tuple[str, str], Job] = {}
    meetings: list[Meeting] = []

    def add(stage: str, needs: Sequence[str] = (), after: Sequence[Job] = ()) -> list[Job]:
        made = [Job(one, stage, [jobs[one.env, name] for name in needs], after) for one in configs]
        jobs.update({(one.config.env, stage): one for one in made})
        return made

    add("record")
    prepared = [*add("export", ["record"]), *add("untrained", ["record"])]
    if until == "untrained":
        return list(jobs.values()), []
    add("real-others", ["untrained"])
    minutes = [mark(m) for m in configs[0].minutes]
    trained = f"diamond-{minutes[-1]}"
    theirs = add(trained, ["export", "untrained"])
    before: list[Job] = []
    for m in minutes:
        agents = [f"agent-{side}-{m}" for side in SIDES]
        worlds = add(f"worldsim-{m}", ["export", "untrained"], before)
        meetings.append(Meeting(worlds, prepared, theirs))
        if m == minutes[0]:
            meetings.append(Meeting(theirs, worlds))
        if until == "trained":
            continue
        both = [*worlds, *theirs]
        before = [
            *add(f"frames-{m}", [trained, f"worldsim-{m}"], both),
            *add(f"agent-worldsim-{m}", [f"worldsim-{m}"], both),
            *add(f"agent-diamond-{m}", [trained], both),
            *add(f"real-diamond-{m}", [f"agent-diamond-{m}"]),
            *add(f"real-worldsim-{m}", [f"agent-worldsim-{m}"]),
            *add(f"dreams-worldsim-{m}", agents),
            *add(f"dreams-diamond-{m}", agents),
        ]
        judged = [f"{what}-{side}-{m}" for what in ("real", "dreams") for side in SIDES]
        before = [*before, *add(f"returns-{m}", ["real-others", *judged])]
    return list(jobs.values()), meetings


def step(jobs: Sequence[Job], command: Sequence[str]) -> None:
    """Start what can start, and look at what has ended."""
    for job in jobs:
        if job.process is not None and (code := job.process.poll()) is not None:
            job.process, job.failed = None, code != 0
            taken = time.monotonic() - job.began
            print(f"{job}: {'failed' if code else 'done'}, {taken:.0f} s", flush=True)
            summarise(job.config, [name for name, _ in all_stages(job.config)])
        if job.over or job.process is not None:
            continue
        if any(one.failed for one in job.needs):
            job.failed = True
            print(f"{job}: left out", flush=True)
        elif all(one.done for one in job.needs) and all(one.over for one in job.after):
            logs = job.config.out / "log"
            logs.mkdir(parents=True, exist_ok=True)
            own = ["--env", job.config.env, "--out", str(job.config.out), "--stage", job.stage]
            own += ["--workers", str(job.config.workers)]
            with (logs / f"{job.stage}.log").open("ab") as file:
                job.process = subprocess.Popen([*command, *own], stdout=file, stderr=file)
            job.began = time.monotonic()


def main(config: TogetherConfig, passed_on: Sequence[str]) -> int:
    """Run all jobs; returns how many failed."""
    meet = config.out.resolve() / "meet"
    shared = ["--meet", str(meet), *passed_on]
    costs = sum(ENVIRONMENTS[env].cost for env in config.envs)
    configs = []
    for env in config.envs:
        workers = max(1, round(config.workers * ENVIRONMENTS[env].cost / costs))
        own = ["--env", env, "--out", str(config.out.resolve() / slug(env))]
        configs.append(tyro.cli(PeersConfig, args=[*shared, *own, "--workers", str(workers)]))
    for file in meet.glob("*"):
        # Of a run that was interrupted.
        file.unlink()
    jobs, meetings = plan(configs, config.until)
    # So that what runs is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = [sys.executable, "-m", "experiments.peers.run", *shared]
    try:
        while not all(job.over for job in jobs):
            step(jobs, command)
            for one in meetings:
                one.look()
            time.sleep(0.1)
    finally:
        for job in jobs:
            if job.process is not None:
                job.process.terminate()
    return sum(job.failed for job in jobs)


if __name__ == "__main__":
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    sys.exit(min(1, main(tyro.cli(TogetherConfig, args=given[:cut]), given[cut + 1 :])))
