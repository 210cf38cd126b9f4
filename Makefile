# make test is all that a fresh machine with Go, Node, Rust and Python needs: it
# installs the rest. make help lists the targets.

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
FUZZ    ?= 5m
SOAK    ?= 20
SEEDS   ?= 5000
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD := 1

.PHONY: help run chat test test-go interop test-web test-browsers deps browsers lint build-web soak fuzz bench

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: ## run a broker on this machine, and tell what to do next
	$(GO) run ./cmd/broker

chat: ## run the chat
	$(GO) run ./examples/chat

test: deps browsers test-go test-web test-browsers ## install what is needed, and pass every test

test-go: deps browsers ## Go, under the race detector, with checks for leaks, and wt/ beside its peers
	$(GO) test -race -timeout=30m ./...

interop: deps browsers ## wt/ beside its peers; writes the tables of docs/interop.md
	$(GO) test -race -count=1 -timeout=30m ./interop -update

test-web: deps ## the browser client: linter, types, tests, size, what is embedded
	cd web/js && npm run check

test-browsers: deps browsers ## the browser client, the contract, the broker's page, the chat and the guide in Chromium and Firefox
	cd web/js && npm run e2e
	cd web/js && npm run contract
	node cmd/broker/e2e/run.mjs
	node --test examples/chat/e2e/
	node examples/chat/e2e/run.mjs
	node internal/guide/e2e/run.mjs

deps: web/js/node_modules/.package-lock.json

web/js/node_modules/.package-lock.json: web/js/package-lock.json
	# Not npm ci: it wants the packages of all platforms in the lock file, and not
	# every registry has those of the linter. The lock file pins what is installed.
	cd web/js && npm install --no-save --no-audit --no-fund
	touch $@

browsers: ## install Chromium and Firefox, or say what is missing
	scripts/browsers

build-web: deps ## build the browser client that the Go programs embed
	cd web/js && npm run build

lint: deps ## every linter
	scripts/lint

soak: ## what runs long: every fuzz target for FUZZ, every Go test SOAK times, SEEDS worlds of the model, a minute of each stress test
	$(GO) test -race -count=$(SOAK) -timeout=2h ./...
	WT_SOAK=1 $(GO) test -v -timeout=1h -run='Leaks|UnderLoss|Random|BesideEnd' ./wt
	$(GO) test -v -timeout=2h -run=TestModel ./internal/model -seeds=$(SEEDS)
	$(GO) test -race -timeout=1h ./internal/stress -stress.for=60s
	$(MAKE) fuzz

fuzz: ## every fuzz target for FUZZ
	scripts/fuzz $(FUZZ)

bench: ## benchmarks, the broker beside its peers, wt beside quic-go and webtransport-go
	$(GO) test -run='^$$' -bench=. -benchmem ./...
	scripts/bench
