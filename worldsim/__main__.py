"""``python -m worldsim``, which ``accelerate launch -m worldsim train`` needs."""

import sys

from worldsim.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
