#!/bin/sh
# One leg of the painter's training, in stages that may be separate commands on one machine:
#
#   leg.sh record WORK      start recording look-arounds beside everything else; returns at once
#   leg.sh encoder WORK     train and freeze the encoder of the distances, and hash it
#   leg.sh yardstick WORK   start measuring floor and ladders; returns at once
#   leg.sh train WORK       start training, for SECONDS_TRAIN seconds; returns at once
#   leg.sh evaluate WORK    stop recording and measure the painter
#
# ENCODER names the folder of a frozen encoder; without it, WORK/encoder is used. Sizes come from
# the variables below. Logs lie in WORK.
set -eu
stage=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
: "${TRAIN_SETS:=120000}" "${TEST_SETS:=640}" "${WORKERS:=26}" "${TEST_WORKERS:=4}" "${SIZE:=64}"
: "${ENCODER_SECONDS:=70}" "${ENCODER_SHARDS:=60}" "${GPUS:=2}" "${SECONDS_TRAIN:=1200}"
: "${PLACES:=512}" "${POOL:=4096}" "${SEED:=0}" "${ENCODER:=$work/encoder}"
: "${TRAIN_ARGS:=}" "${EVAL_ARGS:=}" "${RECORD_ARGS:=}"
mkdir -p "$work"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" PYTHONUNBUFFERED=1
evaluate="$python $here/evaluate.py --encoder $ENCODER --train $work/train --test $work/test"
evaluate="$evaluate --places $PLACES --pool $POOL"

# Another seed where shards are missing after a failure: what is there is kept.
record() { # name sets workers split seed
    for attempt in 0 1 2 3 4; do
        OMP_NUM_THREADS=1 $python "$here/record.py" --out "$work/$1" --sets "$2" --workers "$3" \
            --split "$4" --seed $(($5 + 1000 * attempt)) --height "$SIZE" --width "$SIZE" \
            $RECORD_ARGS && return
    done
}

case $stage in
_record_train) record train "$TRAIN_SETS" "$WORKERS" train "$SEED" ;;
_record_test) record test "$TEST_SETS" "$TEST_WORKERS" test $((SEED + 500)) ;;
record)
    for split in train test; do
        setsid nohup sh "$0" _record_$split "$work" >"$work/record-$split.log" 2>&1 &
        echo $! >"$work/record-$split.pid"
    done
    ;;
encoder)
    $python "$here/encoder.py" --data "$work/train" --out "$work/encoder" \
        --seconds "$ENCODER_SECONDS" --shards "$ENCODER_SHARDS" 2>&1 | tee "$work/encoder.log"
    sha256sum "$work"/encoder/* | tee "$work/encoder.sha256"
    ;;
yardstick)
    CUDA_VISIBLE_DEVICES= setsid nohup $evaluate --out "$work/evaluation" \
        >"$work/yardstick.log" 2>&1 &
    ;;
train)
    setsid nohup $python -m torch.distributed.run --nproc-per-node "$GPUS" "$here/train.py" \
        --data "$work/train" --out "$work/painter" --seconds "$SECONDS_TRAIN" $TRAIN_ARGS \
        >"$work/train.log" 2>&1 &
    echo $! >"$work/train.pid"
    ;;
evaluate)
    for split in train test; do
        kill -- -"$(cat "$work/record-$split.pid")" 2>/dev/null || true
    done
    evaluate="$evaluate --painter $work/painter/state $EVAL_ARGS --out $work/evaluation"
    CUDA_VISIBLE_DEVICES=0 $evaluate/a --parts sheets memory depth >"$work/evaluate-a.log" 2>&1 &
    other=$!
    CUDA_VISIBLE_DEVICES=$((GPUS - 1)) $evaluate/b --parts new >"$work/evaluate-b.log" 2>&1 || true
    wait $other || true
    tail -n 5 "$work"/evaluate-?.log
    ;;
*) echo "unknown stage $stage: record, encoder, yardstick, train or evaluate" >&2; exit 2 ;;
esac
