# make demo    install everything, train all of the paper's methods on real images, show the table
# make test    the test suite         make check   style, types, layers, the wheel
# make drills  the long drills in full size            make bench   the speed benchmark
# make docs    the documentation as a site in build/site
# make gpu     all that needs a GPU, in ten minutes; with TFKD_DATA=FOLDER (official CIFAR files) paper-scale runs, too
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint wheel docs drills bench gpu clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing tfkd with torch and torchvision into $(VENV): a few minutes and, with CUDA, up to 6 GB."
	$(BIN)/python -m pip install --editable .  # not quiet: it shows what is loaded
	$(BIN)/python -m compileall -q tfkd_cli paper_tables  # pip does so for all but editable installs
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/tfkd reproduce demo --yes

# Both halves run, whatever the first one finds.
test: $(VENV)/.dev
	failed=0; \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not drill and not slurm and not browser" tests || failed=1; \
	$(BIN)/python -m pytest -m "(slurm or browser) and not drill" tests || failed=1; \
	exit $$failed

drills: $(VENV)/.dev
	$(BIN)/python -m pytest -m drill --hypothesis-profile=explore --timeout 7200 -s tests

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu --minutes 10

# Strict: a broken link is an error. The banner about MkDocs 2 is not ours to act on.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: lint wheel docs

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The wheel must work away from the repository, and everything up to the trainer without torch; profiles of clusters are checked by submitit.
wheel: $(VENV)/.dev
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . >build/wheel/build.log
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet typer rich msgspec submitit
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	mkdir build/wheel/elsewhere
	cd build/wheel/elsewhere && ../venv/bin/tfkd --help >/dev/null
	cd build/wheel/elsewhere && for what in methods models datasets tables figures clusters; do \
		../venv/bin/tfkd list $$what >/dev/null || exit 1; done
	cd build/wheel/elsewhere && ../venv/bin/tfkd plan all >/dev/null
	test -z "$$(ls -A build/wheel/elsewhere)"

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
