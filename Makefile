# The commands that developers and CI run. Each is written once, here; .ci/run
# calls them in order. Needs Go, git, make and a C compiler (for -race).

GO      ?= go
GOFMT   ?= $(shell $(GO) env GOROOT)/bin/gofmt
PKG     ?= ./...
TIMEOUT ?= 20m
ATONCE  ?=
FUZZ    ?= 10s
SOAK    ?= 10m
BEATS   ?= 30s
TURNS   ?= 200
PARTS   ?= .*
LIFE    ?= 1m
FOR     ?= 10m

.PHONY: all build test race lint vet fmt fmt-check staticcheck tidy-check fuzz-short demo bench bench-revoke soak rotation rotation-minutes cluster monitor-scale test-vault foreign foreign-clients kubernetes compose

all: build lint test

build:
	$(GO) build $(PKG)

test:
	$(GO) test -timeout $(TIMEOUT) $(PKG)

race:
	$(GO) test -race -timeout $(TIMEOUT) $(if $(ATONCE),-p $(ATONCE)) $(PKG)

lint: vet fmt-check staticcheck tidy-check

vet:
	$(GO) vet $(PKG)

fmt:
	$(GOFMT) -w .

fmt-check:
	@files=$$($(GOFMT) -l .) || exit 1; \
	if [ -n "$$files" ]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi

# Pinned in tools/go.mod, apart from the module's own dependencies.
staticcheck:
	$(GO) tool -modfile=tools/go.mod staticcheck $(PKG)

tidy-check:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	cd test/vault/server && $(GO) mod tidy -diff
	cd test/foreign/cli && $(GO) mod tidy -diff
	cd test/kubernetes && $(GO) mod tidy -diff

# Every fuzz target for a short while; seeds and past findings run in test.
fuzz-short:
	@set -e; n=0; \
	for pkg in $$($(GO) list $(PKG)); do \
		names=$$($(GO) test -list '^Fuzz' $$pkg); \
		for f in $$(echo "$$names" | grep '^Fuzz' || true); do \
			n=$$((n+1)); echo "== $$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZ) $$pkg; \
		done; \
	done; \
	if [ $$n -eq 0 ]; then echo "found no fuzz target"; exit 1; fi

demo:
	$(GO) run ./cmd/sealmesh demo

bench:
	$(GO) test -run '^$$' -bench . -benchmem $(PKG)

# What is left of an agent after the command that revokes it, on one server and on
# a cluster of three.
bench-revoke:
	$(GO) run ./cmd/sealmesh bench revoke

# A mesh under load while fifty handlers think for as long: one line for each
# tenth of the time.
soak:
	$(GO) test -run '^TestSoak$$' -count 1 -timeout 0 -v ./meshclient -soak $(SOAK)

# Every connection is replaced TURNS times under load, on one server and on three,
# also while the control plane restarts: nothing may be lost, doubled or refused. PARTS
# are those that are run, all four by default.
rotation:
	$(GO) test -run '^TestRotations$$/^($(PARTS))$$' -count 1 -timeout 0 -v ./test/rotation -rotations $(TURNS)

# Ten agents under load for as long as FOR, with certificates that live for LIFE.
rotation-minutes:
	$(GO) test -run '^TestMinutes$$' -count 1 -timeout 0 -v ./test/rotation -life $(LIFE) -for $(FOR)

# The heartbeat monitor with 10,000 instances that beat every 30 s: what it costs
# and how soon it notices. Eight minutes.
monitor-scale:
	$(GO) test -run '^TestMonitor$$' -count 1 -timeout 0 -v ./test/scale -instances 10000 -interval $(BEATS)

# Three nats-servers and two control planes, each a process, some of which are
# killed, stopped or cut off. `make test` leaves it out.
cluster: foreign-clients
	$(GO) test -race -count 1 -timeout 15m -v ./test/cluster -cluster $(FOREIGN)

# Vault as the issuer of certificates, against the real server of the version in
# test/vault/server, which is built once and kept in Go's build cache: a quarter of
# an hour and two gigabytes the first time. Where it cannot be built, this fails.
# VAULT_FOR=10m is a mesh under load for as long, with Vault sealed in the middle; alone,
# and without the race detector, which takes the time that the load needs.
VAULT_VERSION = $(shell $(GO) list -C test/vault/server -m -f '{{.Version}}' github.com/hashicorp/vault)
VAULT         = $(shell $(GO) env GOCACHE)/sealmesh/vault-$(VAULT_VERSION)
VAULT_FOR    ?= 0

test-vault:
	@vault="$(VAULT)" && mkdir -p "$$(dirname "$$vault")" && \
	if [ ! -x "$$vault" ]; then \
		echo "building $$vault" && \
		$(GO) build -C test/vault/server -o "$$vault.$$$$" github.com/hashicorp/vault && mv "$$vault.$$$$" "$$vault"; \
	fi && \
	$(GO) test $(if $(filter 0,$(VAULT_FOR)),-race,-run '^TestSealedUnderLoad$$') -count 1 -timeout 60m -v ./test/vault -vault "$$vault" -for $(VAULT_FOR)

# Clients that are not ours as agents: the nats CLI of the version in
# test/foreign/cli, and NATS' client for Node.js, which needs npm. Both are kept in
# Go's build cache.
CLI_VERSION = $(shell $(GO) list -C test/foreign/cli -m -f '{{.Version}}' github.com/nats-io/natscli)
CLI         = $(shell $(GO) env GOCACHE)/sealmesh/nats-$(CLI_VERSION)
NODE_DIR    = $(shell $(GO) env GOCACHE)/sealmesh/node-$(shell cksum <test/foreign/node/package-lock.json | cut -d' ' -f1)
FOREIGN     = -nats "$(CLI)" -node "$(NODE_DIR)"

foreign-clients:
	@mkdir -p "$(dir $(CLI))"
	@if [ ! -x "$(CLI)" ]; then \
		echo "building $(CLI)" && \
		$(GO) build -C test/foreign/cli -o "$(CLI).$$$$" github.com/nats-io/natscli/nats && mv "$(CLI).$$$$" "$(CLI)"; \
	fi
	@if [ ! -d "$(NODE_DIR)/node_modules" ]; then \
		mkdir -p "$(NODE_DIR)" && cp test/foreign/node/package.json test/foreign/node/package-lock.json "$(NODE_DIR)/" && \
		(cd "$(NODE_DIR)" && npm ci --no-audit --no-fund --loglevel=error); \
	fi

foreign: foreign-clients
	$(GO) test -race -count 1 -timeout 10m -v ./test/foreign $(FOREIGN)

# The manifests of examples/kubernetes against the types of the Kubernetes API, its
# README followed to the letter, and the mesh that comes of it on this machine. RENDERED
# is what Helm made of the values, where the chart is at hand.
kubernetes:
	cd test/kubernetes && $(GO) vet . && $(GO) test -count 1 -timeout $(TIMEOUT) . $(if $(RENDERED),-rendered $(RENDERED))

# docker-compose.yml as it stands, with a Docker engine: see test/compose/README.md.
compose:
	test/compose/check.sh
