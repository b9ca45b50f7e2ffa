#!/usr/bin/env bash
# An actor-critic that learns in a dream alone, and what it is worth in the real twin.
#
#   experiments/task_agent.sh WORLD MINUTES OUT [RECORDING]
#
# WORLD: folder of a world of a task, such as task_world.sh makes. MINUTES: of training. OUT: folder for the agent and the figures.
# RECORDING: the dataset that the world was trained on, or the folder of all its rounds; dreams then start anywhere in their
# episodes, else in the world's own scenes.
# EPISODES (100), WORKERS (16), ENVS (256), MAX_STEPS (525: 2,100 tics of Doom), AGREEMENT_EPISODES (25), SEEDS ("0"), ENGINE
# (compiled) and TRAIN_ARGS (further options of the training) are taken from the environment.
set -euo pipefail
world=$1 minutes=$2 out=$3 recording=${4:-}
episodes=${EPISODES:-100} workers=${WORKERS:-16} envs=${ENVS:-256} limit=${MAX_STEPS:-525} seeds=${SEEDS:-0}
engine=${ENGINE:-compiled}
python=${PYTHON:-python}
# Real twins are one process each: threads inside them would only get in each other's way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MUJOCO_GL=${MUJOCO_GL:-egl} SDL_VIDEODRIVER=${SDL_VIDEODRIVER:-dummy}
mkdir -p "$out"
scenes=worldsim.scenes.recorded:RecordedScenes
if [ -n "$recording" ]; then scenes=worldsim.scenes.episodes:EpisodeScenes:$recording; fi

agents=()
for seed in $seeds; do
  agent=$out/agent-$seed
  # shellcheck disable=SC2086
  "$python" -m worldsim.agents.actor_critic --world "$world" --out "$agent" --minutes "$minutes" --num-envs "$envs" \
    --scenes "$scenes" --seed "$seed" --engine "$engine" ${TRAIN_ARGS:-}
  "$python" -m worldsim evaluate-agent "$agent" --world "$world" --episodes "$episodes" --workers "$workers" --max-steps "$limit" \
    --seed 10000 --engine "$engine" --into-card --json "$out/agent-$seed.json"
  agents+=("$agent")
done
"$python" -m worldsim evaluate-agent random --world "$world" --episodes "$episodes" --workers "$workers" --max-steps "$limit" \
  --seed 10000 --engine "$engine" --json "$out/random.json"
"$python" -m worldsim agreement "$world" --agents "${agents[@]}" --episodes "${AGREEMENT_EPISODES:-25}" --workers "$workers" \
  --max-steps "$limit" --seed 20000 --engine "$engine" --json "$out/agreement.json"
"$python" -m worldsim watch "${agents[0]}" --world "$world" --out "$out/watch.mp4" --steps "$limit" --seed 10000
