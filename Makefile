# One way to run everything. `make demo` and `make test` install and start what
# they need; nothing else has to be prepared.
GO ?= go

.PHONY: demo verify down test unit fuzz bench check lint packages

demo: ## a running cluster, proven edge by edge, with the site open
	$(GO) run ./examples/full --keep

verify: ## prove the running cluster again, changing nothing
	$(GO) run ./examples/full --verify

down: ## remove the cluster
	$(GO) run ./examples/full --down

test: packages ## everything, on the real parts: a cluster is brought up and taken down
	$(GO) vet -tags e2e ./...
	$(GO) test ./...
	$(GO) -C internal/ciliumjudge test -count=1 .
	$(GO) test -tags e2e -count=1 -timeout 10m -run '^TestE2E' ./examples/...
	$(GO) test -tags e2e -count=1 -timeout 80m -v -run '^TestE2E' ./zerotrust
	$(GO) test -tags e2e -count=1 -timeout 20m -p 1 -run '^TestE2E' ./kindx ./images/... ./spire/... ./internal/ghostunnel ./zerotrust/precinct ./zerotrust/probe/prober

packages: ## what the tests of the applications run: PostgreSQL and a browser, as Debian's packages
	$(GO) run ./examples/packages postgresql-15 chromium

unit: ## what needs no container engine
	$(GO) test ./...

fuzz: ## look for what breaks the parsers, the renderers and the policies; compiles for minutes first
	$(GO) test ./zerotrust/report -run '^$$' -fuzz FuzzRenderers -fuzztime 1m -fuzzminimizetime 1x
	$(GO) test ./zerotrust -run '^$$' -fuzz FuzzParseIntent -fuzztime 1m
	$(GO) test ./zerotrust/probe/prober -run '^$$' -fuzz FuzzSplit -fuzztime 1m
	$(GO) -C internal/ciliumjudge test -run '^$$' -fuzz FuzzIntents -fuzztime 1m .

bench: ## how long each phase takes, and loading an image beside kind's own way
	$(GO) test -tags e2e -count=1 -timeout 60m -run '^$$' -bench . -benchtime 1x ./zerotrust

check: lint test ## what CI runs

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run
