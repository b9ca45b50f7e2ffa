#!/usr/bin/env bash
# The world of a task for agents: recorded in parallel while it is trained, packed, evaluated.
#
#   experiments/task_world.sh TASK [MINUTES] [FOLDER]
#
# TASK: takecover, healthgathering, carracing, minigrid (MiniGrid-Dynamic-Obstacles-6x6, rendered) or pendulum (MuJoCo's
# InvertedPendulum, rendered, continuous actions). MINUTES: of training (30). FOLDER: for everything (runs/TASK). FRAMES, WORKERS,
# BATCH, PRESET, STEPS, EPISODES, HEADS (what the head for rewards and ends reads: frames or features) and further training options
# in TRAIN are taken from the environment. The same command resumes. Another round, with what an agent has learned:
# ROUND=name POLICY=folder-of-the-agent adds a recording of a third as many frames (or ROUND_FRAMES) and trains on all there are,
# into RUN (train).
set -euo pipefail
TASK="$1"
MINUTES="${2:-30}"
mkdir -p "${3:-runs/$TASK}"
OUT=$(cd "${3:-runs/$TASK}" && pwd)
BATCH="${BATCH:-64}"
PRESET="${PRESET:-task}"
EPISODES="${EPISODES:-100}"
PYTHON="${PYTHON:-python3}"
RUN="${RUN:-train}"
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -x "$PYTHON" ]; then PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON"); fi
if ! (cd "$OUT" && "$PYTHON" -c "import worldsim.agents.persistent") 2>/dev/null; then
    # Not installed: the package as an installation would lay it out.
    rm -rf "$OUT/package"
    mkdir -p "$OUT/package"
    cp -R "$here/worldsim" "$OUT/package/"
    for wing in envs agents scenes; do mkdir -p "$OUT/package/worldsim/$wing" && cp -R "$here/$wing/." "$OUT/package/worldsim/$wing/"; done
    export PYTHONPATH="$OUT/package${PYTHONPATH:+:$PYTHONPATH}"
fi
# MuJoCo draws without a screen: egl on a GPU, and with Mesa on a CPU, too; osmesa where there is no EGL.
export MUJOCO_GL=${MUJOCO_GL:-egl} SDL_VIDEODRIVER=${SDL_VIDEODRIVER:-dummy}
agent=${POLICY:-}
if [ -d "$agent" ]; then agent=$(cd "$agent" && pwd); fi
cd "$OUT"

# Doom's tasks: 4 tics a step, as in the real twin; episodes end after 2,100 tics. Colours tell fireballs and medikits from walls:
# they stay as they are.
doom=(--env-kwargs frame_skip 4 max_episode_steps 525 --episode-steps 525 --fps 8.75)
common=(--no-memory --colour 0 --loss.energy 0.9 --loss.pure-noise 0.85 --loss.detail 0.8 --loss.outcome-weight 2)
common+=(--loss.balance context)
heads=frames
case "$TASK" in
takecover)
    # Of 100 episodes: 293 tics on average where every step is drawn anew (standard error 17), 346 with moves that last (18).
    env=VizdoomTakeCover-v1 frames=300000 policies=(random persistent persistent) how=("${doom[@]}")
    common+=(--mirror-actions 0 2 1)
    ;;
healthgathering)
    # The player's health shows in no frame: only features remember when it last found a medikit.
    heads=features
    # 100,000 frames: as many as the agents that it is compared with have learned from.
    env=VizdoomHealthGathering-v1 frames=66000 policies=(persistent) how=("${doom[@]}")
    common+=(--mirror-actions 0 1 3 2)
    ;;
carracing)
    env=CarRacing-v3 frames=240000 policies=(worldsim.agents.road_follower:RoadFollower) how=(--episode-steps 600)
    ;;
minigrid)
    env=MiniGrid-Dynamic-Obstacles-6x6-v0 frames=100000 policies=(random sticky) how=(--render --episode-steps 144)
    ;;
pendulum)
    # Random actions let it fall within some six steps: longer episodes come with an agent's rounds.
    env=InvertedPendulum-v5 frames=60000 policies=(random persistent)
    how=(--render --env-kwargs width 64 height 64 --episode-steps 200)
    ;;
*) echo "TASK is takecover, healthgathering, carracing, minigrid or pendulum, not $TASK" >&2 && exit 2 ;;
esac
FRAMES="${FRAMES:-$frames}"
WORKERS="${WORKERS:-$(nproc)}"
share=$((WORKERS / ${#policies[@]} > 0 ? WORKERS / ${#policies[@]} : 1))

play() { # folder policy frames seed
    "$PYTHON" -m worldsim record "$env" --out "$OUT/data/$1" --policy "$2" --frames "$3" --seed "$4" --size 64 64 \
        "${how[@]}" --workers "$share" --frames-per-shard 2048
}

# Recordings go on while training has begun: it takes new shards in.
if [ -n "${ROUND:-}" ]; then
    share=$WORKERS play "$ROUND" "$agent" "${ROUND_FRAMES:-$((FRAMES / 3))}" "$(printf '%d' "0x$(printf '%s' "$ROUND" | md5sum | cut -c1-6)")" &
fi
for i in "${!policies[@]}"; do
    play "$i" "${policies[$i]}" $((FRAMES / ${#policies[@]})) $((i + 1)) &
    recordings="${recordings:-} $OUT/data/$i"
done
recordings="${recordings}${ROUND:+ $OUT/data/$ROUND}"
for folder in $recordings; do
    until [ -f "$folder/dataset.json" ] || [ -z "$(jobs -r)" ]; do sleep 1; done
done

limit=(--minutes "$MINUTES")
if [ -n "${STEPS:-}" ]; then limit=(--steps "$STEPS"); fi
# shellcheck disable=SC2086
"$PYTHON" -m worldsim train --data "$OUT"/data/* --out "$OUT/$RUN" --preset "$PRESET" --head-input "${HEADS:-$heads}" --batch-size "$BATCH" \
    --patience 60 "${common[@]}" "${limit[@]}" ${TRAIN:-}
wait

# That of the round before.
rm -rf "$OUT/world"
"$PYTHON" -m worldsim export "$OUT/$RUN/world" --out "$OUT/world"
du -sb "$OUT/world"
if [ "$EPISODES" = 0 ]; then exit; fi
"$PYTHON" -m worldsim evaluate "$OUT/world" --episodes "$EPISODES" --json "$OUT/evaluation.json"
