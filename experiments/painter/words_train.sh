#!/bin/bash
# Trains the painter on its attributes, distils it and measures it. Results: docs/experiments/words.md.
#
#     W=/tmp/leg                                                       # one H200, 26 processes that record
#     python experiments/painter/record.py --out $W/train --sets 40000 --workers 22 --seed 52000 &
#     python experiments/painter/record.py --out $W/test --sets 768 --workers 4 --split test --seed 30500 &
#     TEACHER=... experiments/painter/words_train.sh $W 1400                     # folder, seconds in all
#
# TEACHER is leg 3 of the painter (docs/experiments/painter.md), from which the shipped student was
# distilled. The training reads shards as they appear. A run resumes after its last finished stage.
set -u
begun=$(date +%s) W=$1 seconds=$2 E=experiments/painter PY=${PY:-python}
before=${BEFORE:-worldsim/worlds/freedoom-painter}
data="--train $W/train --test $W/test --before $before"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
left() { echo $((seconds * $1 / 100 - ($(date +%s) - begun))); }
stage() { # NAME COMMAND...: run a stage once
  [ -f "$W/done.$1" ] || { "${@:2}" >> "$W/$1.log" 2>&1 && touch "$W/done.$1"; }
}
value() { $PY -c "import json; print(json.load(open('$W/scale.json'))$1)"; }
few="--batch.no-memory 0.5 --batch.no-attributes 0.12 --batch.some-attributes 0.3 --batch.few-attributes 0.6"

while [ "$(find $W/train -name 'views-*.safetensors' | wc -l)" -lt 40 ]; do sleep 1; done
stage table $PY $E/attribute_table.py --data $W/train --out $W/knots
stage teacher $PY $E/train.py --data $W/train --out $W/teacher --start $TEACHER --knots $W/knots --compile \
  --seconds $(left 45) --views 480 --view-shares 0.08 0.08 0.08 0.16 0.14 0.46 --learning-rate 3e-4 --decay 0.6 \
  --average 0.999 --warmup-again 200 --capacity 40000 $few --batch.given 0.35 --batch.unshifted 0.2 \
  --batch.near-noise 0.25 --batch.balanced 0.4
stage recogniser $PY $E/recogniser.py --data $W/train --skip 8192 --test $W/test --out $W/recogniser \
  --places 4096 --epochs 40 --seconds 25
stage scale $PY $E/words_trained.py scale $data --out $W/scale.json --state $W/teacher/state \
  --old-teacher $TEACHER --folder $W --seconds $((seconds * 6 / 100))
stage student $PY $E/distil.py --painter $W/teacher/state --start $W/$(value "['start']") --data $W/train \
  --out $W/student --compile --seconds $(left 76) --capacity 40000 $few --batch.given 0.4 --batch.balanced 0.3 \
  --teacher.num-inference-steps 32 --teacher.attribute-guidance-scale 2.0 \
  --teacher.guidance-scale $(value "['scale'][0]") --teacher.noise-guidance-scale $(value "['scale'][1]")
stage weights $PY $E/words_trained.py student $data --out $W/chosen.json --state $W/student/state --folder $W
stage words $PY $E/words_trained.py measure $data --out $W/words.json --painter $W/shipped \
  --recogniser $W/recogniser --sheets $W/sheets
stage levels $PY $E/words_levels.py painter --painters $TEACHER $W/teacher8 $before $W/shipped \
  --data $W/test --out $W/levels.json
protocol="--test $W/test --train $W/train --places 512 --train-places 16384"
stage protocol $PY -m worldsim evaluate $W/shipped $protocol --json $W/evaluation.json --pictures $W/pictures
for steps in 10 12; do
  stage steps-$steps $PY -m worldsim evaluate $W/shipped $protocol --json $W/evaluation-$steps.json \
    --parts new --num-inference-steps $steps --world None
done
stage before $PY -m worldsim evaluate $before $protocol --json $W/evaluation-before.json \
  --parts new completion --world None
stage shipped-table $PY $E/attribute_table.py --data $W/train --out $W/shipped --painter $W/shipped
