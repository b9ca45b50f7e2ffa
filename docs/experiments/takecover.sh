#!/usr/bin/env bash
# The world of VizdoomTakeCover-v1 for agents: recorded in parallel, trained, packed, evaluated.
#
#   docs/experiments/takecover.sh [MINUTES] [FOLDER]
#
# MINUTES of training (30), FOLDER for everything (runs/takecover). Smaller or larger: FRAMES, WORKERS, BATCH, PRESET, STEPS, EPISODES
# and further training options in TRAIN. What is recorded is kept: the same command goes on where it was interrupted. Another round,
# with what an agent has learned: ROUND=name POLICY=folder-of-the-agent adds a recording and trains on all there are.
set -euo pipefail
MINUTES="${1:-30}"
mkdir -p "${2:-runs/takecover}"
OUT=$(cd "${2:-runs/takecover}" && pwd)
FRAMES="${FRAMES:-300000}"
WORKERS="${WORKERS:-$(nproc)}"
BATCH="${BATCH:-64}"
PRESET="${PRESET:-task}"
EPISODES="${EPISODES:-100}"
PYTHON="${PYTHON:-python3}"
here=$(cd "$(dirname "$0")/../.." && pwd)
if [ -x "$PYTHON" ]; then PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON"); fi
if ! (cd "$OUT" && "$PYTHON" -c "import worldsim.agents.persistent") 2>/dev/null; then
    # Not installed: the package as an installation would lay it out.
    rm -rf "$OUT/package"
    mkdir -p "$OUT/package"
    cp -R "$here/worldsim" "$OUT/package/"
    for wing in envs agents scenes; do mkdir -p "$OUT/package/worldsim/$wing" && cp -R "$here/$wing/." "$OUT/package/worldsim/$wing/"; done
    export PYTHONPATH="$OUT/package${PYTHONPATH:+:$PYTHONPATH}"
fi
agent=${POLICY:-}
if [ -d "$agent" ]; then agent=$(cd "$agent" && pwd); fi
cd "$OUT"
# A time limit of 2,100 tics. Training takes 4 tics a step, as the real twin does.
LIMIT=525

play() {
    "$PYTHON" -m worldsim record VizdoomTakeCover-v1 --out "$OUT/data/$1" --policy "$2" --frames "$3" --seed "$4" \
        --size 64 64 --env-kwargs frame_skip 4 max_episode_steps "$LIMIT" --episode-steps "$LIMIT" --fps 8.75 --workers "$WORKERS" \
        --frames-per-shard 2048
}

# Of 100 episodes: 293 tics on average where every step is drawn anew (standard error 17), 346 with moves that last (18).
play random random $((FRAMES / 3)) 1
play persistent persistent-v1 $((FRAMES - FRAMES / 3)) 2
if [ -n "${ROUND:-}" ]; then
    play "$ROUND" "$agent" $((FRAMES / 3)) "$(printf '%d' "0x$(printf '%s' "$ROUND" | md5sum | cut -c1-6)")"
fi

# Left and right are each other's mirror image here. Colours tell fireballs from walls: they stay as they are.
limit=(--minutes "$MINUTES")
if [ -n "${STEPS:-}" ]; then limit=(--steps "$STEPS"); fi
# shellcheck disable=SC2086
"$PYTHON" -m worldsim train --data "$OUT"/data/* --out "$OUT/${RUN:-train}" --preset "$PRESET" --no-memory --colour 0 \
    --mirror-actions 0 2 1 --batch-size "$BATCH" --objective.energy 0.7 --objective.outcome-weight 2 "${limit[@]}" ${TRAIN:-}

"$PYTHON" -m worldsim export "$OUT/${RUN:-train}/world" --out "$OUT/world"
du -sb "$OUT/world"
"$PYTHON" -m worldsim evaluate "$OUT/world" --episodes "$EPISODES" --json "$OUT/evaluation.json"
