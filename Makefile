# make demo   collect, train, compare and roll out, in ./demo (made anew), on two CPU cores in minutes
# make test   lint, type check and the whole test suite
# make study  the full comparison: data of a trained policy, every model, every column, in ./study; hours on
#             two cores, less on a GPU. Goes on where it was stopped. Small: make study EPISODES=200 SHORTER=100
# make bench  speed against named peers
# make gpu    what needs a CUDA device: its tests, and the speed of chains, training steps and planning on it
# make images MNIST by its preset and the scores of its samples; MNIST=file.npz, else it is downloaded; about 50 minutes of one core
# make cifar  the same for CIFAR-10, for a GPU: about half an hour; CIFAR=folder or .zip, else it is downloaded
# make lint   ruff and mypy alone
# Each creates .venv and installs the package there if needed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO := demo
SEED := 0

STUDY := study
EPISODES := 20000
POLICY := block-z
# training is shorter by this factor
SHORTER := 1

.PHONY: install lint test demo study bench gpu images cifar clean

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
	$(PY) scripts/train_traj.py --data $(DEMO)/data --model ebm --out $(DEMO)/runs/ebm --iterations 3000 --seed $(SEED)
	$(PY) scripts/train_traj.py --data $(DEMO)/data --model fc --out $(DEMO)/runs/fc --iterations 3000 --seed $(SEED)
	# without an OpenGL library there is no video; the rest goes on
	-$(PY) scripts/rollout.py --run $(DEMO)/runs/ebm --steps 50 --out $(DEMO)/rollout.h5 --plot $(DEMO)/rollout.png --video $(DEMO)/rollout.mp4
	$(PY) scripts/compare.py --data $(DEMO)/data --runs $(DEMO)/runs/ebm $(DEMO)/runs/fc --out $(DEMO)/report --seed $(SEED)

# one line a model: folder, then the settings that differ
define STUDY_MODELS
ebm --model ebm --conditioning joint --iterations $$((36000 / $(SHORTER))) --learning-rate 0.004
flow --model flow --conditioning joint --iterations $$((90000 / $(SHORTER))) --learning-rate 0.003
diffusion --model diffusion --conditioning joint --network.whitening None --iterations $$((90000 / $(SHORTER))) --learning-rate 0.003
mixture --model mixture --conditioning joint --iterations $$((40000 / $(SHORTER))) --learning-rate 0.004
ebm-denoising --model ebm --conditioning joint --training denoising --denoising.batch-size 256 --iterations $$((60000 / $(SHORTER)))
ebm-on --init $(STUDY)/runs/ebm --iterations $$((48000 / $(SHORTER))) --learning-rate 0.001 --energy-start $$((42000 / $(SHORTER)))
ebm-longer --init $(STUDY)/runs/ebm-on --uniform-actions --iterations $$((60000 / $(SHORTER))) --learning-rate 0.001 --energy-start $$((42000 / $(SHORTER)))
flow-on --init $(STUDY)/runs/flow --iterations $$((105000 / $(SHORTER))) --learning-rate 0.001
ebm-small --model ebm --conditioning joint --network.width 128 --correction-width 64 --iterations $$((100000 / $(SHORTER))) --learning-rate 0.004
ebm-fast --model ebm --conditioning joint --network.width 160 --network.whitening None --components 6 --correction-width 64 --network.window-frames 2 --iterations $$((64000 / $(SHORTER))) --learning-rate 0.004
gaussian --model gaussian --conditioning joint --iterations $$((6000 / $(SHORTER)))
fc --model fc --iterations $$((20000 / $(SHORTER)))
fc-spectral --model fc --spectral-norm --iterations $$((15000 / $(SHORTER)))
ebm-states --model ebm --iterations $$((8000 / $(SHORTER)))
ebm-actions --model ebm --conditioning actions --iterations $$((8000 / $(SHORTER)))
fc-actions --model fc --conditioning actions --iterations $$((20000 / $(SHORTER)))
endef
export STUDY_MODELS

study: install
	mkdir -p $(STUDY)/runs
	test -f $(STUDY)/collected || { $(PY) scripts/collect.py --out $(STUDY)/data --policy trained \
		--trained.file $(POLICY) --env-kwargs '{"target_rotation": "z", "target_position": "ignore"}' --noise-probability 0.25 \
		--episodes $(EPISODES) --steps 112 --test-fraction 0.12 --validation-fraction 0.04 --storage compact \
		$$(test -d $(STUDY)/data && echo --resume) && touch $(STUDY)/collected; }
	test -f $(STUDY)/data/branches.h5 || $(PY) scripts/collect.py --out $(STUDY)/data --branches 64 \
		--contexts $$(($(EPISODES) < 12800 ? $(EPISODES) / 100 : 128)) --horizon 96 --context-frames 16
	echo "$$STUDY_MODELS" | while read name settings; do \
		test -f $(STUDY)/runs/$$name/model.json || $(PY) scripts/train_traj.py --data $(STUDY)/data \
			--out $(STUDY)/runs/$$name --learning-rate 0.002 $$(eval echo $$settings) --final-learning-rate 0.02 \
			--ema-decay 0.998 --validate-every 1000 $$(test -d $(STUDY)/runs/$$name && echo --resume) || exit 1; \
	done
	cd $(STUDY)/runs && $(CURDIR)/$(PY) $(CURDIR)/scripts/compare.py --data ../data --out ../report --overwrite \
		--rollouts 2000 --runs ebm-longer ebm-on ebm ebm-small ebm-fast ebm-denoising flow-on flow diffusion mixture gaussian fc fc-spectral
	cd $(STUDY)/runs && $(CURDIR)/$(PY) $(CURDIR)/scripts/compare.py --data ../data --out ../report-actions \
		--overwrite --rollouts 2000 --told-actions --runs ebm-longer ebm-actions fc-actions

bench: install
	$(PY) -m pip install --quiet --editable ".[peers]"
	for what in chain train plan load collect; do $(PY) scripts/benchmark.py $$what || exit 1; done

gpu: install
	$(PY) -m pip install --quiet --editable ".[peers,triton]"
	$(PY) -m pytest tests/core/test_triton_chain.py tests/core/test_graphs.py tests/core/test_recorded_step.py tests/trajectory/test_gpu.py
	for what in chain train plan; do $(PY) scripts/benchmark.py $$what --device cuda || exit 1; done

MNIST := mnist

images: install
	$(PY) scripts/train_classifier.py --data $(MNIST) --out images/classifier --iterations 2400 --bfloat16 --download
	$(PY) scripts/train_image.py --preset mnist --data $(MNIST) --out images/mnist-begun --download
	$(PY) scripts/train_image.py --preset mnist --data $(MNIST) --begin images/mnist-begun --out images/mnist --download \
		--iterations 11000 --learning-rate 1.5e-3
	$(PY) scripts/image.py score --model images/mnist --data $(MNIST) --classifier images/classifier --out images/scored --count 2000 --unconditional --seed 11

CIFAR := cifar10
# smaller, to try it: make cifar CIFAR_STEPS=4 CIFAR_COUNT=20 CIFAR_FLAGS="--config.network.channels 8 8 --config.denoising.batch-size 8"
CIFAR_STEPS := 24000
CIFAR_COUNT := 5000
CIFAR_FLAGS :=

cifar: install
	$(PY) scripts/train_classifier.py --data $(CIFAR) --out images/cifar-classifier --iterations $$(($(CIFAR_STEPS) / 4)) \
		--width 64 --augmentation shift-flip --bfloat16 --download
	$(PY) scripts/train_image.py --preset cifar10-annealed --data $(CIFAR) --out images/cifar --iterations $(CIFAR_STEPS) \
		--download $(CIFAR_FLAGS)
	$(PY) scripts/image.py score --model images/cifar --data $(CIFAR) --classifier images/cifar-classifier \
		--out images/cifar-scored --count $(CIFAR_COUNT) --unconditional

clean:
	rm -rf $(VENV) .types $(DEMO)
