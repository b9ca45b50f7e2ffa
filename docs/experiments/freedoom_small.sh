#!/usr/bin/env bash
# From nothing to an evaluated freedoom-small: record, two phases of training, export at 8 bits, start scenes, card, evaluation.
#
#   docs/experiments/freedoom_small.sh WORK GPUS FIRST_MINUTES SECOND_MINUTES [all | first | second | ship | evaluate]
#
# Needs torch, vizdoom and the core's dependencies, no network. Every part goes on where it was interrupted; recording runs beside
# the first phase. Settings from the environment: WORKERS (recording processes), FRAMES, BATCH (windows a GPU and step),
# BUFFER (frames a GPU), PRESET, SAVE (steps between checkpoints), STEPS (instead of the minutes), EPISODES (walks; unset: the protocol).
set -euo pipefail
work=${1:?folder to work in} gpus=${2:?number of GPUs} first=${3:?minutes} second=${4:?minutes} part=${5:-all}
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$work"
work=$(cd "$work" && pwd)
python=${PYTHON:-python3}
cores=$(nproc)
if ! (cd "$work" && "$python" -c "import worldsim.envs.doom") 2>/dev/null; then
    # Not installed: the package as an installation would lay it out.
    mkdir -p "$work/package"
    cp -R "$here/worldsim" "$work/package/"
    for wing in envs agents scenes; do mkdir -p "$work/package/worldsim/$wing" && cp -R "$here/$wing/." "$work/package/worldsim/$wing/"; done
    export PYTHONPATH="$work/package${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$work"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
worldsim() { "$python" -m worldsim "$@"; }
# Each process of one machine, through torchrun, also where there is one GPU.
train() { "$python" -m torch.distributed.run --standalone --nproc_per_node "$gpus" -m worldsim train "$@"; }

common=(--data data --preset "${PRESET:-small}" --batch-size "${BATCH:-16}" --memory-capacity 147456 --world-memory-capacity 524288
    --refresh-every 200 --save-every "${SAVE:-500}" --sample-every "${SAVE:-500}" --patience 600 --mirror-actions 0 1 2 4 3 6 5)
length() { if [ -n "${STEPS:-}" ]; then echo --steps "$STEPS"; else echo --minutes "$1"; fi; }

if [[ $part == all || $part == first ]]; then
    # Reserves two cores a GPU for training.
    worldsim record worldsim/FreedoomReal-v0 --out data --frames "${FRAMES:-550000}" --frames-per-shard "${SHARD:-2048}" \
        --workers "${WORKERS:-$((cores > 3 * gpus ? cores - 2 * gpus : 1))}" --episode-steps "${EPISODE_STEPS:-160}" --seed 51 \
        --env-kwargs height 96 width 128 --reset-options split train > record.log 2>&1 &
    recording=$!
    trap 'kill "$recording" 2>/dev/null || true' EXIT
    until [ -f data/dataset.json ] || ! kill -0 "$recording" 2>/dev/null; do sleep 1; done
    # From nothing, squared error alone: no own frames (there is nothing to dream with), no energy score (no detail to be sharp about).
    # shellcheck disable=SC2046
    train "${common[@]}" --out first $(length "$first") --buffer-frames "${BUFFER:-280000}" --decay 0.2
    wait "$recording"
    trap - EXIT
fi
if [[ $part == all || $part == second ]]; then
    # Own frames, samples instead of means, edits: the third run of freedoom-tiny (freedoom_tiny.md, drift.md).
    # shellcheck disable=SC2046
    train "${common[@]}" --out second $(length "$second") --buffer-frames "${BUFFER:-280000}" --decay 0.5 --init-from first/world \
        --perturb.own 0.7 --objective.energy 0.7 --objective.pure-noise 0.7 --edits 0.15 --motion-learning-rate 8e-4
fi
if [[ $part == all || $part == ship ]]; then
    rm -rf freedoom-small
    worldsim export second/world --out freedoom-small
    "$python" "$here/docs/experiments/freedoom_small_card.py" freedoom-small --earlier first/world
fi
if [[ $part == all || $part == evaluate ]]; then
    episodes=${EPISODES:+--episodes $EPISODES}
    # shellcheck disable=SC2086
    worldsim evaluate freedoom-small --json evaluation.json --pictures strips --cache walks --batch 16 $episodes
    # shellcheck disable=SC2086
    worldsim evaluate freedoom-small --protocol return-trip --json return_trips.json --cache trips --batch 4 $episodes ${LENGTHS:+--lengths $LENGTHS}
    "$python" "$here/docs/experiments/freedoom_small_card.py" freedoom-small --results evaluation.json --trips return_trips.json
fi
