#!/usr/bin/env bash
# TakeCover and HealthGathering, each on a GPU of its own, from recording to agents, within a given time and without being watched.
#
#   docs/experiments/tasks_at_once.sh OUT [SECONDS]
#
# OUT: folder for the results: worlds, agents and logs, packed, whatever had been reached by then. SECONDS: of all of it (572).
# Everything else lies in WORK (runs/at_once). Training begins with the first recorded shards and takes the others in as they come.
# FRAMES (100000, of each of TakeCover's three recordings), COVER_MINUTES (5.3), GATHER_MINUTES (3.7) of training the worlds,
# PLAYERS (7, processes a recording) and TRAIN (further options of both trainings) are taken from the environment.
set -u
OUT=$(mkdir -p "$1" && cd "$1" && pwd) SECONDS_ALL=${2:-572}
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${WORK:-runs/at_once}/log"
WORK=$(cd "${WORK:-runs/at_once}" && pwd)
python=${PYTHON:-python3}
if [ -x "$python" ]; then python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python"); fi
# The package as an installation would lay it out.
mkdir -p "$WORK/package" && cp -R "$here/worldsim" "$WORK/package/"
for wing in envs agents scenes; do mkdir -p "$WORK/package/worldsim/$wing" && cp -R "$here/$wing/." "$WORK/package/worldsim/$wing/"; done
export PYTHONPATH="$WORK/package${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1 SDL_VIDEODRIVER=dummy
cd "$WORK" || exit 1
began=$(date +%s)
say() { echo "$(($(date +%s) - began)) s: $*" | tee -a log/phases; }

mkdir -p takecover/data healthgathering/data
record() { # task environment number policy frames
    "$python" -m worldsim record "$2" --out "$1/data/$3" --policy "$4" --frames "$5" --seed $(($3 + 1)) --size 64 64 \
        --env-kwargs frame_skip 4 max_episode_steps 525 --episode-steps 525 --fps 8.75 --workers "${PLAYERS:-7}" \
        --frames-per-shard 2048 >"log/record-$1-$3.log" 2>&1
    say "recorded $1 $3"
}
train() { # task minutes options
    local task=$1 minutes=$2
    shift 2
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=3 "$python" -m worldsim train --data "$task"/data/* --out "$task/train" --preset task --batch-size 32 --patience 60 \
        --no-memory --colour 0 --objective.energy 0.9 --objective.detail 0.8 --objective.outcome-weight 2 --save-every 2000 \
        --sample-every 1000 --refresh-every 100 --minutes "$minutes" "$@" ${TRAIN:-} >"log/world-$task.log" 2>&1
    "$python" -m worldsim export "$task/train/world" --out "$task/world" >"log/export-$task.log" 2>&1
    say "world of $task"
}
learn() { # task name minutes options
    local task=$1 name=$2 minutes=$3
    shift 3
    OMP_NUM_THREADS=2 "$python" -m worldsim.agents.actor_critic --world "$task/world" --out "$task/$name" --minutes "$minutes" \
        --scenes "worldsim.scenes.episodes:EpisodeScenes:$task/data" --num-envs 256 --minibatches 32 --epochs 4 --learning-rate 3e-4 \
        --engine fast "$@" >"log/$name-$task.log" 2>&1
    say "$name of $task"
}

for i in 0 1 2; do
    policies=(random persistent persistent)
    record takecover VizdoomTakeCover-v1 "$i" "${policies[$i]}" "${FRAMES:-100000}" &
done
record healthgathering VizdoomHealthGathering-v1 0 persistent "${GATHER_FRAMES:-100000}" &
until [ -f takecover/data/0/dataset.json ] && [ -f takecover/data/1/dataset.json ] && [ -f takecover/data/2/dataset.json ] &&
    [ -f healthgathering/data/0/dataset.json ]; do sleep 0.5; done
(
    export CUDA_VISIBLE_DEVICES=0
    train takecover "${COVER_MINUTES:-5.3}" --mirror-actions 0 2 1 --objective.pure-noise 0.6
    learn takecover agent-a 20 --horizon 32
) &
(
    export CUDA_VISIBLE_DEVICES=1
    train healthgathering "${GATHER_MINUTES:-3.7}" --mirror-actions 0 1 3 2 --objective.pure-noise 0.7
    learn healthgathering agent-a 2.5 --horizon 128
    until [ -f takecover/world/world.json ]; do sleep 1; done
    learn takecover agent-b 20 --horizon 32 --sampling-steps 4
) &
while [ $(($(date +%s) - began)) -lt "$SECONDS_ALL" ]; do sleep 1; done
say packing
for folder in */world */agent-?; do tar czf "$OUT/${folder/\//-}.tgz" "$folder"; done
tar czf "$OUT/logs.tgz" log */train/samples */train/history.json
for file in log/world-*.log log/agent-*.log; do
    printf '%s: ' "$file"
    tr '\r' '\n' <"$file" | tail -1 | cut -c1-400
done
# The subshells first, or they would go on with their next command.
for job in $(jobs -p); do
    children=$(pgrep -P "$job")
    # shellcheck disable=SC2086
    kill "$job" $children 2>/dev/null
done
