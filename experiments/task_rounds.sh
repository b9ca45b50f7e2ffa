#!/usr/bin/env bash
# A task from nothing to measured agents, in rounds: a world, an agent that learns in it, a recording of that agent, and again.
#
#   experiments/task_rounds.sh TASK [MINUTES] [AGENT_MINUTES] [FOLDER]
#
# TASK: as in task_world.sh. MINUTES: of each world's training (10). AGENT_MINUTES: of each agent's training (3). FOLDER: for
# everything (runs/TASK). ROUNDS (2): worlds; the agents of the last one learn with each of SEEDS ("0 1 2") and are measured in the
# real twin as in task_agent.sh. ENVS, ENGINE, TRAIN_ARGS and the variables of both scripts are taken from the environment. The same
# command resumes.
set -euo pipefail
task=$1 minutes=${2:-10} agent_minutes=${3:-3}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${4:-runs/$task}"
out=$(cd "${4:-runs/$task}" && pwd)
rounds=${ROUNDS:-2} episodes=${EPISODES:-100} train=${TRAIN:-}
export MUJOCO_GL=${MUJOCO_GL:-egl} SDL_VIDEODRIVER=${SDL_VIDEODRIVER:-dummy} PYTHON=${PYTHON:-python3} SEEDS=${SEEDS:-0 1 2}
if [ -x "$PYTHON" ]; then PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON"); fi
case "$task" in
carracing | pendulum) limit=1000 ;;
minigrid) limit=144 ;;
*) limit=525 ;;
esac
for ((round = 1; round <= rounds; round++)); do
    options=(EPISODES=0 RUN="train-$round")
    if [ "$round" -gt 1 ]; then
        before=$((round - 1))
        options+=(ROUND="agent-$before" POLICY="$out/agents/$before" TRAIN="$train --init-from $out/train-$before/world")
    fi
    if [ ! -f "$out/trained-$round" ]; then
        env "${options[@]}" "$here/task_world.sh" "$task" "$minutes" "$out"
        touch "$out/trained-$round"
    fi
    if [ "$round" -lt "$rounds" ]; then
        # shellcheck disable=SC2086
        (cd "$out" && "$PYTHON" -m worldsim.agents.actor_critic --world "$out/train-$round/world" --out "$out/agents/$round" \
            --minutes "$agent_minutes" --num-envs "${ENVS:-256}" --engine "${ENGINE:-compiled}" \
            --scenes "worldsim.scenes.episodes:EpisodeScenes:$out/data" ${TRAIN_ARGS:-})
    fi
done
cd "$out"
if [ "$episodes" != 0 ]; then
    "$PYTHON" -m worldsim evaluate "$out/world" --episodes "$episodes" --json "$out/evaluation.json"
fi
MAX_STEPS=${MAX_STEPS:-$limit} "$here/task_agent.sh" "$out/world" "$agent_minutes" "$out/measured" "$out/data"
