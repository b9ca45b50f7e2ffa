#!/usr/bin/env bash
# Arms of dreams painted ahead, and their speed: painted_arms.sh OUT
#
# PY: the Python to use. SECONDS_MAX: wall seconds of all. TINY=1: a rehearsal on a CPU. L: a folder
# that holds recorded test walks in data/testwalks. ARMS: names of painted_dreams.ARMS. WORLD: a
# world's folder or name; with it, no speed is measured.
set -u
out=$1
mkdir -p "$out/home"
here=$(dirname "$0")
py=${PY:-python}
most=${SECONDS_MAX:-240}
begun=$(date +%s)
speed_s=45
walks=${L:-$out}/data/testwalks
arms=${ARMS:-plain known-often nothing-often all-often oracle known-always nothing-always known-here known-straight known-near}
size="--walks 64 --horizon 96 --batch 64 --places 32 --num-inference-steps 8 --strips 12"
speed="freedoom-small --speed-steps 128 --engine fast"
if [ -n "${TINY:-}" ]; then
    arms="plain known-often"
    size="--walks 2 --horizon 8 --batch 2 --places 2 --num-inference-steps 1 --strips 1 --device cpu"
    speed="freedoom-tiny --speed-steps 4 --device cpu"
    walks=$out/walks
    most=10000
fi
"$py" "$here/painted_dreams.py" --out "$out/arms" --cache "$walks" --before "${WORLD:-freedoom-tiny}" \
    --seconds $((most - speed_s - 30)) $size --arms $arms >"$out/arms.log" 2>&1
if [ -z "${WORLD:-}" ] && [ $(($(date +%s) - begun)) -lt $((most - speed_s)) ]; then
    "$py" "$here/painted_dreams.py" --out "$out/arms" --num-inference-steps 8 --speed $speed \
        --ahead.coverage 0.8 --ahead.every 2 >"$out/speed.log" 2>&1
fi
cp "$out"/arms/*.json "$out"/*.log "$out"/arms/strips/*.png "$out/home/" 2>/dev/null
ls -la "$out/home"
