#!/usr/bin/env bash
# TakeCover, alone or beside HealthGathering, on two GPUs, from recording to agents in rounds, within a given time, without being watched.
#
#   experiments/tasks_at_once.sh OUT [SECONDS]
#
# OUT: folder for the results: worlds, agents and logs, packed, whatever had been reached by then. SECONDS: of all of it (1600).
# Everything else lies in WORK (runs/at_once). The first GPU trains TakeCover's world from the first recorded shards on and takes the
# agents' own recordings in as they come, then an agent; the second one does all the rest. ROUNDS: with TakeCover alone so many
# agents on the second GPU, one after another, and the last one in the finished world; else HealthGathering is done there, too.
# FRAMES (100000, of each of TakeCover's three recordings, and of each round of an agent), GATHER_FRAMES (66000, and GATHER_ROUND,
# 34000, of its agent), PLAYERS (7, processes a recording), WORLD_MINUTES (19, of TakeCover's), SAVE_EVERY (1000), PRESET (task),
# BUFFER (900000 frames), ENVS (256), ENGINE (compiled, of dreams), HEADS and GATHER_HEADS (what the heads of TakeCover and
# HealthGathering read: frames and features) and TRAIN (further options of all trainings of worlds) are taken from the environment; SCALE (1) shortens all minutes, for rehearsals.
set -u
OUT=$(mkdir -p "$1" && cd "$1" && pwd) SECONDS_ALL=${2:-1600}
here=$(cd "$(dirname "$0")/.." && pwd)
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
told() { "$python" -c "import json; x = json.load(open('$1')); print($2)" 2>&1 | tail -1; } # JSON file, expression
left() { awk "BEGIN { print ($SECONDS_ALL - $(date +%s) + $began - 40) / 60 }"; } # minutes, for what has to be done before packing
scaled() { awk "BEGIN { print $1 * ${SCALE:-1} }"; }

mkdir -p {takecover,healthgathering}/{data,rounds}
declare -A environment=([takecover]=VizdoomTakeCover-v1 [healthgathering]=VizdoomHealthGathering-v1)
# The player's health shows in no frame: only features remember when it last found a medikit.
declare -A heads=([takecover]=${HEADS:-frames} [healthgathering]=${GATHER_HEADS:-features})
declare -A mirror=([takecover]="0 2 1" [healthgathering]="0 1 3 2")
record() { # task name policy frames seed players
    "$python" -m worldsim record "${environment[$1]}" --out "$1/data/$2" --policy "$3" --frames "$4" --seed "$5" --size 64 64 \
        --env-kwargs frame_skip 4 max_episode_steps 525 --episode-steps 525 --fps 8.75 --workers "${6:-${PLAYERS:-7}}" \
        --frames-per-shard 2048 >"log/record-$1-$2.log" 2>&1
    say "recorded $1 $2: $(told "$1/data/$2/dataset.json" \
        'sum(s["frames"] for s in x["shards"]) / sum(s["episodes"] for s in x["shards"])') frames an episode"
    if [[ $2 == agent-* ]]; then ln -sfn "../data/$2" "$1/rounds/$2"; fi
}
train() { # task run minutes options
    local task=$1 run=$2 minutes
    minutes=$(scaled "$3")
    shift 3
    # Errors are compared with those of frames that see as much of the past: what begins without notice, shots and what comes into
    # sight, then comes as often as it does.
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=3 "$python" -m worldsim train --data "$task/data" --out "$task/$run" --preset "${PRESET:-task}" --head-input "${heads[$task]}" \
        --patience 60 --no-memory --colour 0 --mirror-actions ${mirror[$task]} --loss.balance context --loss.pure-noise 0.5 --loss.energy 0.9 \
        --loss.detail 0.8 --loss.outcome-weight 2 --buffer-frames "${BUFFER:-900000}" --save-every "${SAVE_EVERY:-1000}" \
        --sample-every 1000 --refresh-every 100 --minutes "$minutes" "$@" ${TRAIN:-} >"log/world-$task-$run.log" 2>&1
    say "world of $task, $run"
}
world() { # task run name: the world as it is by now
    until [ -f "$1/$2/world/world.json" ]; do sleep 1; done
    # The rest of what was being saved.
    sleep 2
    "$python" -m worldsim export "$1/$2/world" --out "$1/$3" >"log/export-$1-$3.log" 2>&1
}
learn() { # task world name minutes options: dreams begin at moments of agents' recordings, where there are some
    local task=$1 from=$2 name=$3 minutes scenes=data
    if [ "$4" = rest ]; then minutes=$(left); else minutes=$(scaled "$4"); fi
    shift 4
    if [ -n "$(ls -A "$task/rounds")" ]; then scenes=rounds; fi
    OMP_NUM_THREADS=2 "$python" -m worldsim.agents.actor_critic --world "$task/$from" --out "$task/$name" --minutes "$minutes" \
        --scenes "worldsim.scenes.episodes:EpisodeScenes:$task/$scenes" --num-envs "${ENVS:-256}" --minibatches 32 --epochs 4 \
        --learning-rate 3e-4 --engine "${ENGINE:-compiled}" "$@" >"log/$name-$task.log" 2>&1
    say "$name of $task: $(told "$task/$name/agent.json" 'x["training"]["steps"], x["training"]["history"]')"
}
after() { # agent: the option to begin with its weights, if it is there
    if [ -f "$1/agent.json" ]; then echo "--init-from $1"; fi
}
cover=(--horizon 32 --gamma 0.97)

for i in 0 1 2; do
    policies=(random persistent persistent)
    record takecover "$i" "${policies[$i]}" "${FRAMES:-100000}" $((i + 1)) &
done
first=(takecover/data/{0,1,2}/dataset.json)
if [ -z "${ROUNDS:-}" ]; then
    record healthgathering 0 persistent "${GATHER_FRAMES:-66000}" 1 &
    first+=(healthgathering/data/0/dataset.json)
fi
until ls "${first[@]}" >log/first 2>&1; do sleep 0.5; done
# shellcheck disable=SC2046
(
    export CUDA_VISIBLE_DEVICES=0
    train takecover train "${WORLD_MINUTES:-19}"
    world takecover train world
    learn takecover world "agent-${ROUNDS:-2}b" rest "${cover[@]}" $(after "takecover/agent-${ROUNDS:-2}")
) &
# shellcheck disable=SC2046
(
    export CUDA_VISIBLE_DEVICES=1
    if [ -n "${ROUNDS:-}" ]; then
        for ((round = 1; round <= ROUNDS; round++)); do
            world takecover train "world-$round"
            learn takecover "world-$round" "agent-$round" 2.5 "${cover[@]}" $(after "takecover/agent-$((round - 1))")
            record takecover "agent-$round" "takecover/agent-$round" "${FRAMES:-100000}" $((10 + round)) $((3 * ${PLAYERS:-7})) &
        done
        until [ -f takecover/world/world.json ]; do sleep 1; done
        learn takecover world "agent-${ROUNDS}c" rest --horizon 64 --gamma 0.98 $(after "takecover/agent-$ROUNDS")
        exit
    fi
    long=(--attention 16 --window 48 --batch-size 16)
    train healthgathering train 6 "${long[@]}"
    world healthgathering train world-1
    world takecover train world-1
    learn takecover world-1 agent-1 2.5 "${cover[@]}"
    record takecover agent-1 takecover/agent-1 "${FRAMES:-100000}" 11 $((3 * ${PLAYERS:-7})) &
    learn healthgathering world-1 agent-1 2.5 --horizon 128
    record healthgathering agent-1 healthgathering/agent-1 "${GATHER_ROUND:-34000}" 12 &
    world takecover train world-2
    learn takecover world-2 agent-2 2.5 "${cover[@]}" $(after takecover/agent-1)
    record takecover agent-2 takecover/agent-2 "${FRAMES:-100000}" 13 $((3 * ${PLAYERS:-7})) &
    train healthgathering train-2 4 "${long[@]}" --init-from healthgathering/train/world
    world healthgathering train-2 world
    learn healthgathering world agent-2 4 --horizon 128 $(after healthgathering/agent-1)
) &
while [ $(($(date +%s) - began)) -lt "$SECONDS_ALL" ]; do sleep 1; done
say packing
# Two archives, without what agents would go on from: small enough to be brought away whatever happens. What there is not is left out.
tar czf "$OUT/results.tgz" --exclude 'checkpoint*' --exclude '*/world-*' {takecover,healthgathering}/{world,agent-}* 2>log/packing
tar czf "$OUT/logs.tgz" --exclude '*.png' log/*.log log/phases {takecover,healthgathering}/train*/history.json 2>>log/packing
say packed
# The subshells first, or they would go on with their next command.
for job in $(jobs -p); do
    children=$(pgrep -P "$job")
    # shellcheck disable=SC2086
    kill "$job" $children 2>/dev/null
done
