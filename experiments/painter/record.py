"""Record look-arounds.

python experiments/painter/record.py --out /tmp/train --sets 4096 --workers 16
"""

from __future__ import annotations

import json
import time

import tyro

from worldsim.painting.training.lookaround import LookAroundConfig, record_look_arounds

if __name__ == "__main__":
    config = tyro.cli(LookAroundConfig)
    begun = time.monotonic()
    count = record_look_arounds(config)
    print(json.dumps({**count, "seconds": round(time.monotonic() - begun, 1)}))
