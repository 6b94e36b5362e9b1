# Two commands: `make demo` and `make test`, whose quick part is `make quick`. All set up .venv by themselves and use it
# again when it is up to date.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-full test quick lint docs bench compile constraints install images images-test audit sbom licences

install: $(STAMP) $(BIN)/promtool $(BIN)/chromium

$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# For the tests of the alert rules: Debian's, which apt checks by its signature, unpacked without root. Elsewhere, or with
# no network, the tests take the promtool on PATH; they fail without one where CI is set, and are skipped otherwise.
APT := apt-get -qq -o Dir::State=$(CURDIR)/$(VENV)/apt -o Dir::Cache=$(CURDIR)/$(VENV)/apt -o APT::Sandbox::User=root
$(BIN)/promtool: | $(STAMP)
	mkdir -p $(VENV)/apt/lists/partial $(VENV)/apt/archives/partial
	cd $(VENV)/apt && $(APT) update && $(APT) download prometheus \
		&& dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C ../bin --strip-components=3 ./usr/bin/promtool \
		|| echo "No promtool: apt could not bring Debian's prometheus; the tests of the alert rules need it on PATH."
	rm -rf $(VENV)/apt

# For the tests of the pages: the Chromium on PATH, or Debian's where root may install it. Without one the tests fail
# where CI is set, and are skipped otherwise.
$(BIN)/chromium: | $(STAMP)
	command -v chromium || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium; } \
		|| echo "No Chromium: install it, so that the pages are tested in a real browser."
	! command -v chromium || ln -sf "$$(command -v chromium)" $@

demo: install
	$(BIN)/serm demo --workspace runs/demo

# The third window too, in the same workspace.
demo-full: install
	$(BIN)/serm demo --workspace runs/demo --cycles 3

# A worker that died ends the run: pytest-xdist would start another, and with --dist loadfile wait for it for ever.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart=0 --dist loadfile --no-loadscope-reorder --durations=25

# Of the unit tests those that need no model, no server, no JVM and no browser.
quick: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart=0 --dist worksteal --durations=25 --quick tests/unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site, in build/site; a broken link fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A benchmark with all that it needs, its peer's environment included; without NAME, what there is.
bench: install
	$(BIN)/python benchmarks/run.py $(NAME)

compile: install
	$(BIN)/python -m pipelines.generate
	$(BIN)/python -m pipelines.compile

# All that .venv holds, as exact pins (the local build tag of torch left out), below the two lines of constraints.txt.
constraints: install
	{ head -2 constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed -E 's/\+cpu//'; } \
		> $(VENV)/constraints.txt && mv $(VENV)/constraints.txt constraints.txt

# The images, by docker or what BUILDER names (podman, buildah); all four, or IMAGE.
images:
	PYTHON=$(PYTHON) components/images/build.sh $(IMAGE)

# The images at work: a small cycle in them by KFP's DockerRunner, and a predictor. Docker is to have them, as 10001 reads.
images-test: install images
	$(BIN)/python benchmarks/images.py "$$(mktemp -d)"

# What the images stand on, by tools of their own environment: known weaknesses, and a bill of materials (CycloneDX).
IMAGE ?= data train judge serve
TOOLS := build/tools/bin
$(TOOLS)/pip-audit:
	$(PYTHON) -m venv build/tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0

# torch's build without CUDA has the weaknesses of its version.
audit: $(TOOLS)/pip-audit
	for one in $(IMAGE); do sed 's/+cpu//' components/images/$$one/requirements.txt > build/$$one.txt \
		&& $(TOOLS)/pip-audit --progress-spinner off --disable-pip --require-hashes -r build/$$one.txt || exit 1; done

sbom: $(TOOLS)/pip-audit
	mkdir -p build/sbom
	for one in $(IMAGE); do $(TOOLS)/cyclonedx-py requirements components/images/$$one/requirements.txt \
		--output-reproducible --of JSON -o build/sbom/$$one.cdx.json || exit 1; done

# docs/licences.md, of what .venv holds.
licences: install
	$(BIN)/python docs/hooks/licences.py > docs/licences.md
