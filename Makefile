# The two commands: `make demo` and `make test`. Everything lives in .venv and demo/.
PY ?= python3
TORCH ?= torch==2.13.0
# pip options for the torch step, for instance an index of CPU builds; see README.
TORCH_ARGS ?=
# For instance DATA=/path/to/pneumoniamnist.npz; without it MEDSERVE_DATA, a download, then generated phantoms.
DATA ?=
# Of `make soak`.
HOURS ?= 2
# Of `make bench`: lanes by name, rounds, QUICK=1, PREPARE=1; see docs/benchmarks.md.
LANE ?=
ROUNDS ?=
QUICK ?=
PREPARE ?=
BIN := .venv/bin
# A virtual environment, also where Python came without ensurepip.
venv = ($(PY) -m venv $(1) || ($(PY) -m pip install -q --target .boot virtualenv && PYTHONPATH=.boot $(PY) -m virtualenv -q $(1)))

.PHONY: demo demo-stop test test-all lint bench soak revision sbom lock clean

demo: .venv/ok
	$(BIN)/medserve demo $(if $(DATA),--data $(DATA))

demo-stop: .venv/ok
	$(BIN)/medserve demo --stop

test: .venv/test .venv-triton/ok lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# Also the long campaigns; dist/test-all.txt and .xml say what ran, for how long, and how it ended.
test-all: .venv/test-all .venv-triton/ok .venv-kserve/ok lint
	mkdir -p dist
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -ra --durations=40 --junitxml=dist/test-all.xml > dist/test-all.txt; \
	  status=$$?; cat dist/test-all.txt; exit $$status

lint: .venv/test
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

# torch is a step of its own: a resolver that reaches it takes gigabytes of GPU packages.
.venv/ok: pyproject.toml constraints.txt
	$(call venv,.venv)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH_ARGS) $(TORCH)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

.venv/test: .venv/ok
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# Our service beside seven peers, each in an environment of its own: dist/serving.json and .md. Everything takes some two
# hours; QUICK=1 some 25 minutes; LANE=light ROUNDS=3 a part. Wants wrk, and a machine with nothing else to do.
bench: .venv/test
	PYTHONPATH=benchmarks $(BIN)/python -m serving $(if $(LANE),--lane $(LANE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(QUICK),--quick) $(if $(PREPARE),--prepare)

# Steady load on a real service for HOURS; does its memory grow, does it fail? dist/soak.json, exit code 1 if so.
soak: .venv/test
	$(BIN)/python benchmarks/soak.py --hours $(HOURS)

# Clients of Open Inference Protocol, whose pins fight ours, for the tests alone.
.venv-triton/ok:
	test -x .venv-triton/bin/pip || $(call venv,.venv-triton)
	.venv-triton/bin/pip install -q --disable-pip-version-check 'tritonclient[http,grpc]==2.73.0'
	touch $@

.venv-kserve/ok:
	test -x .venv-kserve/bin/pip || $(call venv,.venv-kserve)
	.venv-kserve/bin/pip install -q --disable-pip-version-check kserve==0.21.0
	touch $@

# Ray and ADMET-AI beside it: half a gigabyte that only the long tests take.
.venv/test-all: .venv/test
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,ray,admet]'
	touch $@

# After a table was changed: make revision WORDS="what changed"; then read the file it names.
revision: .venv/test
	$(BIN)/python tests/store/test_migrations.py "$(WORDS)"

# What is installed here, as CycloneDX 1.6 JSON; the tool has an environment of its own.
sbom: .venv/ok
	test -x .venv-sbom/bin/cyclonedx-py || $(PY) -m venv .venv-sbom
	.venv-sbom/bin/pip install -q --disable-pip-version-check cyclonedx-bom==7.5.0
	mkdir -p dist
	.venv-sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON --sv 1.6 -o dist/sbom.json .venv/bin/python

# What a serving installation takes, with hashes; the versions of constraints.txt.
lock:
	test -x .venv-lock/bin/uv || $(PY) -m venv .venv-lock
	.venv-lock/bin/pip install -q --disable-pip-version-check uv==0.13.9
	grep -v '^torch' constraints.txt > .venv-lock/constraints.txt
	.venv-lock/bin/uv pip compile -q pyproject.toml --extra imaging --extra signals --extra wordpieces --extra openvino \
	  --extra molecules --extra postgres --extra s3 --extra grpc --extra otel --extra hardware -c .venv-lock/constraints.txt \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 -o requirements.lock

clean:
	rm -rf .venv .venv-triton .venv-kserve .venv-sbom .venv-lock .boot demo dist
