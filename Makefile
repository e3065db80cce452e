# The habits of this project. `make` alone lists them.
.PHONY: help run test unit contract fuzz fuzz-parsers e2e local-aws test-cluster test-page lint bench dist deploy

REGION ?= eu-central-1
ARCHIVE = dag-monitor-$$(uname -m)-unknown-linux-gnu.tar.gz
PYTHON_TOOLS = $$(tests/e2e/venv)

help: ## lists the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile

run: ## the demo: no AWS account, no Docker, no Python
	cargo run --locked

test: unit contract fuzz fuzz-parsers test-page e2e test-cluster ## everything that must pass

unit: ## unit, property, golden and adapter tests, and the demo
	cargo test --locked --workspace

contract: ## state machine, template, roles and error names in step
	tests/contract/run

e2e: ## builds with sam, deploys to a local AWS emulator, and drives it from outside
	tests/e2e/run

local-aws: ## the stack on an emulator of AWS, with a simulated cluster, to be used by hand; Ctrl-C ends it
	tests/e2e/run --by-hand

fuzz: ## drives the local server with what its OpenAPI document allows, and what it does not
	tests/fuzz/run

fuzz-parsers: ## gives every parser of bytes from outside what nobody thought of; FUZZ_SECS each, 20 by default
	tests/fuzz-parsers/run

test-page: ## the page of `dag-monitor serve` in a real browser; pictures in target/page; skipped aloud without Chromium
	tests/page/run

test-cluster: ## real kube-apiserver, Helm 3 and 4, judged live; skipped aloud where Go is missing
	tests/cluster/run

lint: ## format, clippy, documentation, dependencies, template
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
# Built alone they have fewer features of what they share.
	cargo clippy --locked -- -D warnings
	cargo clippy --locked -p check -p register -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	tests/deny
	$(PYTHON_TOOLS)/cfn-lint -r $(REGION) -t infra/template.yaml infra/examples/notify.yaml
	cd infra && AWS_DEFAULT_REGION=$(REGION) SAM_CLI_TELEMETRY=0 "$$(../tests/e2e/venv)/sam" validate --lint -t template.yaml

bench: ## what it costs, beside baselines, in one table; SECTIONS="hot cold" for a part; measured, never asserted
	cargo build --locked --release -p check -p register -p bare
	cargo run --locked --release -p bench -- $(SECTIONS)

dist: ## the program for a pipeline: an archive for this machine and its SHA-256, in target/dist
	cargo build --locked --release -p dag-monitor
	mkdir -p target/dist
	tar --create --gzip --owner=0 --group=0 --directory target/release --file target/dist/$(ARCHIVE) dag-monitor
	cd target/dist && sha256sum $(ARCHIVE) > $(ARCHIVE).sha256

deploy: ## to AWS, with questions
	cd infra && sam build && sam deploy --guided
