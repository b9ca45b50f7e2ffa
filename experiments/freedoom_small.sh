#!/usr/bin/env bash
# An evaluated freedoom-small from freedoom-tiny's weights: record, train, export at 8 bits, start scenes, card, evaluation.
#
#   experiments/freedoom_small.sh WORK GPUS MINUTES [all | train | ship | evaluate]
#
# Needs torch, vizdoom and the core's dependencies, no network. Every part goes on where it was interrupted; recording runs beside
# the training. Settings from the environment: WORKERS (recording processes), FRAMES, BATCH (windows a GPU and step), BUFFER (frames
# a GPU), INIT (world to start from), SAVE (steps between checkpoints), STEPS (instead of the minutes), EPISODES (walks; unset: the
# protocol), LENGTHS (of return trips).
set -euo pipefail
work=${1:?folder to work in} gpus=${2:?number of GPUs} minutes=${3:?minutes} part=${4:-all}
here=$(cd "$(dirname "$0")/.." && pwd)
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

length=(--minutes "$minutes")
[ -z "${STEPS:-}" ] || length=(--steps "$STEPS")

if [[ $part == all || $part == train ]]; then
    # Reserves two cores a GPU for training.
    worldsim record worldsim/FreedoomReal-v0 --out data --frames "${FRAMES:-550000}" --frames-per-shard "${SHARD:-2048}" \
        --workers "${WORKERS:-$((cores > 3 * gpus ? cores - 2 * gpus : 1))}" --episode-steps "${EPISODE_STEPS:-160}" --seed 51 \
        --env-kwargs height 96 width 128 --reset-options split train > record.log 2>&1 &
    recording=$!
    trap 'kill "$recording" 2>/dev/null || true' EXIT
    until [ -f data/dataset.json ] || ! kill -0 "$recording" 2>/dev/null; do sleep 1; done
    # Own frames and edits from the beginning: freedoom-tiny's weights draw at this size, too, once positions are interpolated.
    train --data data --out run "${length[@]}" --init-from "${INIT:-freedoom-tiny}" --batch-size "${BATCH:-16}" \
        --buffer-frames "${BUFFER:-280000}" --memory-capacity 147456 --world-memory-capacity 524288 --refresh-every 200 \
        --save-every "${SAVE:-500}" --sample-every "${SAVE:-500}" --patience 600 --mirror-actions 0 1 2 4 3 6 5 --decay 0.5 \
        --perturb.own 0.7 --loss.energy 0.5 --loss.pure-noise 0.7 --edits 0.15 --motion-learning-rate 8e-4
    wait "$recording"
    trap - EXIT
fi
if [[ $part == all || $part == ship ]]; then
    rm -rf freedoom-small
    worldsim export run/world --out freedoom-small
    "$python" "$here/experiments/freedoom_small_card.py" freedoom-small --earlier "${INIT:-freedoom-tiny}"
fi
if [[ $part == all || $part == evaluate ]]; then
    episodes=${EPISODES:+--episodes $EPISODES}
    # shellcheck disable=SC2086
    worldsim evaluate freedoom-small --json evaluation.json --pictures strips --cache walks --batch 16 $episodes
    # shellcheck disable=SC2086
    worldsim evaluate freedoom-small --protocol return-trip --json return_trips.json --cache trips --batch 4 $episodes ${LENGTHS:+--lengths $LENGTHS}
    "$python" "$here/experiments/freedoom_small_card.py" freedoom-small --results evaluation.json --trips return_trips.json
fi
