# make demo   collect, train, compare and roll out, in ./demo (made anew), on two CPU cores in minutes
# make test   lint, type check and the whole test suite
# make bench  speed against named peers
# make lint   ruff and mypy alone
# Each creates .venv and installs the package there if needed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO := demo
SEED := 0

.PHONY: install lint test demo bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip setuptools
	$(PY) -m pip install --quiet --editable ".[dev]"
	touch $@

# mypy does not know setuptools' mapping of envs/ and datasets/ into the package: show it one tree of links
.types: install
	rm -rf .types && mkdir -p .types/ebm_traj
	ln -s $(CURDIR)/ebm_traj/* .types/ebm_traj/
	ln -s $(CURDIR)/envs $(CURDIR)/datasets .types/ebm_traj/

lint: install .types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	MYPYPATH=.types $(VENV)/bin/mypy --config-file pyproject.toml -p ebm_traj
	MYPYPATH=.types $(VENV)/bin/mypy --config-file pyproject.toml scripts/*.py

# one thread each: the tests run side by side
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

demo: install
	rm -rf $(DEMO)
	$(PY) scripts/collect.py --out $(DEMO)/data --episodes 2000 --steps 100 --noise-every 4 --test-fraction 0.3 --seed $(SEED)
	$(PY) scripts/train_traj.py --data $(DEMO)/data --model ebm --out $(DEMO)/runs/ebm --seed $(SEED)
	$(PY) scripts/train_traj.py --data $(DEMO)/data --model fc --out $(DEMO)/runs/fc --seed $(SEED)
	# without an OpenGL library there is no video; the rest goes on
	-$(PY) scripts/rollout.py --run $(DEMO)/runs/ebm --steps 50 --out $(DEMO)/rollout.h5 --plot $(DEMO)/rollout.png --video $(DEMO)/rollout.mp4
	$(PY) scripts/compare.py --data $(DEMO)/data --runs $(DEMO)/runs/ebm $(DEMO)/runs/fc --out $(DEMO)/report --seed $(SEED)

bench: install
	$(PY) scripts/benchmark.py collect

clean:
	rm -rf $(VENV) .types $(DEMO)
