# What one does with this repository. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BUF := npx --yes @bufbuild/buf@1.75.0

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every binary, optimised, into target/release
	$(CARGO) build --release --workspace --bins

.PHONY: run
run: build ## Build and start the system; ARGS="--port 9000" passes options to `sagamesh up`
	@$(TARGET)/release/sagamesh up $(ARGS)

.PHONY: demo
demo: build ## Build and play the shop's scenarios on a temporary system of their own
	@$(TARGET)/release/sagamesh demo $(ARGS)

.PHONY: test
test: ## Run all tests (PostgreSQL's when it is installed; SAGAMESH_REQUIRE_POSTGRES=1 insists)
	$(CARGO) test --workspace --no-fail-fast $(ARGS)

MINUTES ?= 1
.PHONY: chaos
chaos: build ## Strike at a whole system for MINUTES, then look for what is lost; STORE=postgres for replicas on PostgreSQL
	$(CARGO) build --release -p sagamesh-tests --bin chaos
	@SAGAMESH_BIN_DIR=$(abspath $(TARGET))/release $(TARGET)/release/chaos --minutes $(MINUTES) $(if $(filter postgres,$(STORE)),--postgres) $(ARGS)

.PHONY: verify
verify: ## Check format, lints, documentation and contracts; writes nothing
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps
	@$(MAKE) --no-print-directory lint-protos
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and banned crates are not checked (cargo install cargo-deny)"; fi

.PHONY: lint-protos
lint-protos:
	@command -v npx >/dev/null || { echo "buf needs Node.js with npx: install it (Debian: apt-get install nodejs npm) and run this again" >&2; exit 1; }
	cd proto && $(BUF) lint && $(BUF) format --diff --exit-code

.PHONY: fix
fix: ## Format and apply the fixes that the lints offer
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
	@if command -v npx >/dev/null; then cd proto && $(BUF) format --write; fi

.PHONY: bench
bench: ## Measure sagas per second, latency and memory, on the binaries as shipped
	$(CARGO) build --profile dist --workspace --bins
	@$(TARGET)/dist/bench-sagas $(ARGS)

.PHONY: bench-mesh
bench-mesh: ## Measure what two sidecars with mTLS add to a call; beside linkerd2-proxy if LINKERD2_PROXY names it
	$(CARGO) build --profile dist -p mesh-sidecar --features testing --bins
	@$(TARGET)/dist/bench-mesh $(ARGS)

.PHONY: tools
tools: ## Say which tools are here and how to get the others
	@have() { if command -v $$1 >/dev/null; then printf '  %-12s %s\n' "$$1" "$$($$2 2>&1 | head -1 | cut -c1-60)"; else printf '  %-12s missing: %s\n' "$$1" "$$3"; fi; }; \
	have cargo "cargo --version" "https://rustup.rs"; \
	have npx "npx --version" "Node.js, for buf (make verify)"; \
	have initdb "initdb --version" "PostgreSQL's server, for its tests (Debian: apt-get install postgresql; also looked for in /usr/lib/postgresql)"; \
	have python3 "python3 --version" "Python 3 with py-consul, for the test of Consul's client (SAGAMESH_PYTHON names it)"; \
	have nft "nft --version" "nftables and iproute2, for --sidecar linkerd and its test (Debian: apt-get install nftables iproute2)"; \
	have cargo-deny "cargo deny --version" "cargo install cargo-deny, for licences (make verify)"; \
	have curl "curl --version" "to try the REST API"; \
	have grpcurl "grpcurl --version" "to try the gRPC API: https://github.com/fullstorydev/grpcurl"
