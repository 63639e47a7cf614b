# `make` alone explains the targets. The environment in .venv is built when first needed, and again when what it
# depends on changes; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
WHEEL := build/wheel-test
SOURCES := setup.py coltran kernels tests $(wildcard bench)

# Only what is installed in .venv counts.
unexport PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo gallery faded hints small frechet test test-ray test-web test-xla decode-grid tpu-aot bench lint format wheel-test tf-test docs tour kills fuzz fuzz-exif sanitize clean

help:  ## this list
	@echo "Colorization Transformer. Usage: make TARGET"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "All of them work in $(VENV), which is built by itself (some minutes the first time)."

demo: $(READY)  ## colour the photographs in coltran/demo, and make the picture in README.md of them
	$(BIN)/python -m coltran.colorize coltran/demo -o build/demo --samples 3
	cp build/demo/contact_sheet.png docs/demo.png

# The first weights, out of the commit that shipped them.
FIRST := build/d279365/coltran/pretrained
$(FIRST):
	mkdir -p build/d279365
	git archive d279365 coltran/pretrained | tar -x -C build/d279365

gallery: $(READY) $(FIRST)  ## colour the photographs in coltran/demo, also by the first networks: docs/gallery.md
	$(BIN)/python docs/gallery.py $(FIRST)

faded: $(READY)  ## colour faded prints of photographs in coltran/demo: the pictures of docs/photographs.md
	$(BIN)/python docs/faded.py

hints: $(READY)  ## show hints, scores and parts drawn anew on photographs in coltran/demo: docs/hints.md
	$(BIN)/python docs/hints.py

PHOTOS ?= ../shared/photos
RUNS ?= build/runs
PRECISION ?= float32
DEVICE ?= cpu
SHORTEN ?= 1
# Two of the networks start from ones of half their width, which learn the most of it in less time.
TRAIN = $(BIN)/python -m coltran.train --data_dir=$(PHOTOS)/train --precision=$(PRECISION) --device=$(DEVICE) \
    --shorten=$(SHORTEN)
small: $(READY)  ## train the small networks on PHOTOS/train in PRECISION on DEVICE, measure them on PHOTOS/valid, put them into the package
	@echo "Six trainings, the last on PHOTOS/wide as well. On two cores of an AMD EPYC (Zen 4): about a day, estimate; a tenth with SHORTEN=10."
	$(TRAIN) --config=coltran/configs/narrow_colorizer.py --logdir=$(RUNS)/narrow_colorizer
	$(TRAIN) --config=coltran/configs/small_colorizer.py --logdir=$(RUNS)/colorizer --pretrain_dir=$(RUNS)/narrow_colorizer
	$(TRAIN) --config=coltran/configs/small_color_upsampler.py --logdir=$(RUNS)/color_upsampler
	$(TRAIN) --config=coltran/configs/narrow_spatial_upsampler.py --logdir=$(RUNS)/narrow_spatial_upsampler
	$(TRAIN) --config=coltran/configs/small_spatial_upsampler.py --logdir=$(RUNS)/spatial_upsampler --pretrain_dir=$(RUNS)/narrow_spatial_upsampler
	$(TRAIN) --config=coltran/configs/guide.py --logdir=$(RUNS)/guide --data_dir=$(PHOTOS)/wide
	$(BIN)/python -m coltran.evaluate --checkpoint $(RUNS)/guide --data_dir $(PHOTOS)/wide-valid
	$(BIN)/python -m coltran.evaluate --checkpoint $(RUNS)/colorizer --data_dir $(PHOTOS)/valid --train_dir $(PHOTOS)/train
	$(BIN)/python -m coltran.evaluate --checkpoint $(RUNS)/color_upsampler --data_dir $(PHOTOS)/valid
	$(BIN)/python -m coltran.evaluate --checkpoint $(RUNS)/spatial_upsampler --data_dir $(PHOTOS)/valid --limit 64
	$(BIN)/python -m coltran.export $(RUNS) -o coltran/pretrained
	$(BIN)/python docs/curves.py $(addprefix $(RUNS)/,colorizer color_upsampler spatial_upsampler)

# LIMIT photographs of valid, PROTOCOL A or B.
LIMIT ?= 128
PROTOCOL ?= B
frechet: $(READY) $(FIRST)  ## measure the networks in the package, and the first ones, on PHOTOS/valid (10 minutes): docs/metrics.md
	for weights in $(FIRST) coltran/pretrained; do \
	    $(BIN)/python -m coltran.evaluate --metrics --paper --data_dir $(PHOTOS)/valid --checkpoint $$weights --samples 2 \
	        --limit $(LIMIT) --protocol $(PROTOCOL) --frechet --output build/frechet/$$(echo $$weights | tr / -) || exit; done

test: $(READY)  ## run the tests (one: .venv/bin/pytest tests/test_image.py -k bits)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-web: $(READY)  ## use the web page in a headless Chromium, which apt-get installs where there is none
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/web

test-ray: $(READY)  ## run the tests of colouring on a Ray cluster, on one of this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ray

XLA := build/xla-venv
# Besides the XLA path itself: what depends most on the version of torch.
XLA_TESTS := tests/xla $(addprefix tests/test_,attention.py layer_norm.py decode_row.py dispatch.py networks.py sampling.py) \
    $(addprefix tests/test_,decoding_graphs.py checkpoint.py) \
    $(addprefix tests/test_,optimizer.py train.py resume.py evaluate.py)
test-xla: $(XLA)/.installed  ## run the tests of the XLA path on the CPU, with torch 2.9 in an environment of its own (7 GB)
	OMP_NUM_THREADS=1 $(XLA)/bin/python -m pytest -n 2 -k "not triton" $(XLA_TESTS)

decode-grid: $(READY)  ## compare the row decoder's kernels with the specification at every size (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/decode_grid.py

tpu-aot: $(XLA)/.installed  ## compile the graphs of a row for a TPU, with jax and libtpu in an environment of their own (1 GB)
	test -x build/tpu-venv/bin/python || $(PYTHON) -m venv build/tpu-venv
	build/tpu-venv/bin/pip install --quiet --disable-pip-version-check jax==0.7.1 jaxlib==0.7.1 libtpu==0.0.21
	$(XLA)/bin/python tests/tpu_ahead.py export build/tpu-aot
	build/tpu-venv/bin/python tests/tpu_ahead.py compile build/tpu-aot

bench: $(READY)  ## time the operations, networks and training steps (make bench BENCH="--benchmark-compare")
	$(BIN)/python -m pytest bench/suite.py --benchmark-autosave --benchmark-warmup=on \
	    --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name $(BENCH)

lint: $(READY)  ## check style, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p coltran -p coltran_kernels $(if $(wildcard bench/__init__.py),-p bench)

format: $(READY)  ## format the sources and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel-test: $(READY)  ## build the wheel, install it in an empty environment and look that nothing is missing
	rm -rf build/lib build/bdist.* $(WHEEL)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	$(BIN)/python -m venv --without-pip $(WHEEL)/venv
	$(BIN)/pip --python $(WHEEL)/venv/bin/python install --quiet --no-deps --no-index $(WHEEL)/*.whl
	cd $(WHEEL) && PYTHONPATH="$$($(CURDIR)/$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	    venv/bin/python $(CURDIR)/tests/check_wheel.py $(CURDIR)

# tf-keras is Keras 2, with which the original works; alone, because it asks for the TensorFlow that brings CUDA.
TENSORFLOW := 2.21.0
tf-test: $(READY)  ## let TensorFlow, in an environment of its own (1.6 GB), and us read each other's records and checkpoints
	test -x build/tf-venv/bin/python || $(PYTHON) -m venv build/tf-venv
	build/tf-venv/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu==$(TENSORFLOW)
	build/tf-venv/bin/pip install --quiet --disable-pip-version-check --no-deps tf-keras==$(TENSORFLOW)
	$(BIN)/python tests/check_tensorflow.py write build/tf-test
	build/tf-venv/bin/python tests/check_tensorflow.py answer build/tf-test
	$(BIN)/python tests/check_tensorflow.py read build/tf-test

docs: $(READY)  ## build the documentation as a site, build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

tour: $(READY)  ## run docs/tour.ipynb and keep what it shows, after other weights came into the package
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nbclient ipykernel
	$(BIN)/jupyter-execute --inplace docs/tour.ipynb

kills: $(READY)  ## kill trainings and folder runs 1,000 times: whole files, and the same result in the end (5 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_kills.py --times 84 --seed 0

fuzz: $(READY)  ## give 10,000 damaged images, configurations, checkpoints and records to what reads them (5 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fuzz.py --times 40 --seed 0

fuzz-exif: $(READY)  ## give 3,000 photographs with random EXIF to every program: none sideways, none lost (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -W ignore tests/test_photo_exif.py -k random --times 300 --seed 0

sanitize: $(READY)  ## run the native kernels under the address, undefined behaviour and thread sanitizers
	$(BIN)/python tests/sanitize.py build/sanitize

clean:  ## remove everything that was built, .venv included
	rm -rf $(VENV) build dist coltran.egg-info .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# torch-fidelity asks for torchvision, whose wheels ask for CUDA's torch; Inception-v3 does without.
$(READY): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torch-fidelity
	touch $@

# torch_xla works with one release of torch only, so it has an environment of its own.
$(XLA)/.installed: pyproject.toml setup.py constraints-xla.txt
	test -x $(XLA)/bin/python || $(PYTHON) -m venv $(XLA)
	$(XLA)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-xla.txt -e . \
	    torch-xla pytest pytest-xdist
	touch $@
