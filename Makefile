# One way to run everything. `make demo` and `make test` install and start what
# they need; nothing else has to be prepared.
GO ?= go

.PHONY: demo verify down test unit fuzz existing faults action bench bench-short spire-versions nerdctl check lint packages

demo: ## a running cluster, proven edge by edge, with the site open
	$(GO) run ./examples/full --keep

verify: ## prove the running cluster again, changing nothing
	$(GO) run ./examples/full --verify

down: ## remove the cluster
	$(GO) run ./examples/full --down

# ./zerotrust first: it installs the engine and builds the images where there are none, with time
# enough for it.
test: packages ## everything, on the real parts: a cluster is brought up and taken down
	$(GO) vet -tags e2e ./...
	$(GO) test ./...
	$(GO) -C internal/ciliumjudge test -count=1 .
	$(GO) -C internal/bench test -count=1 .
	$(MAKE) fuzz
	$(GO) test -tags e2e -count=1 -timeout 80m -v -run '^TestE2E' ./zerotrust
	$(GO) test -tags e2e -count=1 -timeout 20m -p 2 -run '^TestE2E' ./zerotrust/precinct ./examples/... ./kindx ./images/... ./spire/... ./internal/ghostunnel ./zerotrust/probe/prober
	ACT=$(ACT) $(GO) test -tags e2e -count=1 -timeout 30m -short -v -run '^TestE2E' ./action
	$(MAKE) bench-short

packages: ## what the tests of the applications run: PostgreSQL, a browser and podman, as Debian's packages
	$(GO) run ./examples/packages postgresql-15 chromium podman crun

unit: ## what needs no container engine
	$(GO) test ./...

FUZZTIME ?= 5s
FUZZDIR := $(shell $(GO) env GOCACHE)/fuzz/zerotrust

# "go test -fuzz" would compile every dependency anew, with counters, for many minutes. Our
# own packages are enough to have them.
fuzzed = $(GO) -C $(1) test -c -o $(FUZZDIR)/$(2).test -gcflags=github.com/org/spire-vault-99-action/...=-d=libfuzzer . && \
	cd $(1) && $(FUZZDIR)/$(2).test -test.run '^$$' -test.fuzz '^$(2)$$' -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 10x -test.fuzzcachedir $(FUZZDIR)/cache

fuzz: ## look for what breaks the parsers, the renderers and the policies
	$(call fuzzed,zerotrust,FuzzParseIntent)
	$(call fuzzed,zerotrust,FuzzNetworkPolicies)
	$(call fuzzed,zerotrust/report,FuzzRenderers)
	$(call fuzzed,zerotrust/probe/prober,FuzzSplit)
	$(call fuzzed,examples/entries/entryfile,FuzzRead)
	$(call fuzzed,internal/ciliumjudge,FuzzIntents)

existing: ## the demo installed in a cluster that is there already
	$(GO) test -tags e2e -count=1 -timeout 30m -v -run '^TestInstall$$' ./zerotrust

faults: ## break the running demo in every known way, one at a time, and see the right check red
	$(GO) test -tags e2e -count=1 -timeout 60m -v -run '^TestFaults$$' ./zerotrust

ACT ?=
action: ## the GitHub Action in real workflows, as a runner has it: act, host mode, on the real stack
	ACT=$(ACT) $(GO) test -tags e2e -count=1 -timeout 60m -v -run '^TestE2E' ./action

bench: ## how long each phase takes; entries and images beside other programs
	$(GO) test -tags e2e -count=1 -timeout 60m -run '^$$' -bench . -benchtime 1x ./zerotrust ./spire
	$(GO) -C internal/bench run . -out $(BENCHDIR)

BENCHDIR ?= $(CURDIR)/report/bench
bench-short: ## side by side with other programs, in some minutes; fails on a wrong result, never on time
	$(GO) -C internal/bench run . -short -out $(BENCHDIR)

spire-versions: ## entries against other versions of SPIRE, which are built first: half an hour on two cores
	$(GO) test -tags e2e -count=1 -timeout 120m -v -run '^TestVersions$$' ./internal/spireversions

nerdctl: ## images into a node in nerdctl, which is built first, with a containerd of its own: minutes on two cores
	$(GO) run ./examples/packages mmdebstrap
	$(GO) test -tags e2e -count=1 -timeout 60m -v -run '^TestNerdctl$$' ./examples/load

check: lint test ## what CI runs

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run
