# Each target sets up what it needs: .venv with the dev and doom extras (.venv-nerf for what needs
# nerfstudio, .venv-interop for what needs RLlib and others) and, for test and demo, system
# libraries and a browser.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: setup system hooks format lint types docs test suite test-fast test-nerf test-interop demo play dist clean

setup: $(STAMP)

# torch first and alone: its exact version decides which of its builds and companions everything
# else agrees with.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "worldsim needs Python 3.11 or newer, found " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --constraint constraints.txt --editable '.[dev,doom]'
	touch $@

# Shared libraries and programs that wheels do not bring. Installs them as root, names them otherwise.
system:
	@$(PYTHON) .ci/system-libraries cv2 open3d browser

# Hooks of git, by .pre-commit-config.yaml: they call the targets of this file.
hooks: setup
	$(PIP) --constraint constraints.txt pre-commit
	$(VENV)/bin/pre-commit install

# Small models in several workers: threads would only get in each other's way. What takes one core
# runs beside the tests.
test: export OMP_NUM_THREADS ?= 1
# Else every process of the tests would compile the package anew.
test: export PYTHONDONTWRITEBYTECODE =
test: setup lint
	@$(PYTHON) .ci/system-libraries cv2 open3d browser
	@$(MAKE) --no-print-directory --jobs 2 suite types docs test-nerf

suite: setup
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal

# The tests marked fast: the core's contracts, in under two minutes on two cores.
test-fast: export OMP_NUM_THREADS ?= 1
test-fast: setup
	@$(PYTHON) .ci/system-libraries cv2
	$(VENV)/bin/python -m pytest -q -m "fast and not slow" -n $(WORKERS) --dist worksteal \
		$$(grep -rl --include='*.py' 'mark\.fast' tests)

# An environment of its own, since nerfstudio pins old versions of what the rest uses. Everything in
# it is named: its own list of dependencies would bring another torch. Fixtures for all tests need
# more than is there, so these tests do without.
NERF := .venv-nerf
$(NERF)/.installed: pyproject.toml constraints-nerf.txt
	test -x $(NERF)/bin/python || $(PYTHON) -m venv $(NERF)
	$(NERF)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-nerf.txt
	$(NERF)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test-nerf: export OMP_NUM_THREADS ?= 1
test-nerf: $(NERF)/.installed
	@$(PYTHON) .ci/system-libraries cv2
	$(NERF)/bin/python -m pytest -q --noconftest --disable-warnings -m nerf $$(grep -rl --include='*.py' 'mark\.nerf' tests)

# An environment of its own, since RLlib pins an old gymnasium. Everything in it is named, torch
# first, as above. Not a part of test: it takes gigabytes, and minutes for processes to start.
INTEROP ?= .venv-interop
$(INTEROP)/.installed: pyproject.toml constraints-interop.txt
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints-interop.txt)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-interop.txt
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test-interop: export OMP_NUM_THREADS ?= 1
test-interop: $(INTEROP)/.installed
	@$(PYTHON) .ci/system-libraries cv2
	$(INTEROP)/bin/python -m pytest -q --disable-warnings tests/interop

format: setup
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format --quiet .

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .

# The wings are checked where they are installed: inside the package.
types: setup
	@rm -rf build/types && mkdir -p build/types && cp -R worldsim build/types/worldsim
	@for wing in envs agents scenes; do cp -R $$wing build/types/worldsim/$$wing; done
	cd build/types && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p worldsim

# The documentation site, into build/site. Strictly: a broken link or reference is an error.
docs: export NO_MKDOCS_2_WARNING = 1
docs: setup
	$(VENV)/bin/mkdocs build --strict --quiet

demo: setup
	@$(PYTHON) .ci/system-libraries cv2
	$(VENV)/bin/worldsim demo --out out/demo

# A page on which a person walks through the shipped worlds: http://127.0.0.1:8000.
play: setup
	@$(PYTHON) .ci/system-libraries cv2
	$(VENV)/bin/worldsim play

# The source distribution, and the wheel from it: a wheel from the repository would also hold modules
# that an earlier build left in build/.
dist: setup
	rm -rf dist *.egg-info
	$(VENV)/bin/python -m build --no-isolation

clean:
	rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache *.egg-info
