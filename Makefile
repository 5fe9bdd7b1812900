# imping: make demo needs nothing but Go; make test Debian 12, Go and root.
GO       ?= go
PREFIX   ?= bin
SOAKTIME ?= 45m
PACKAGES  = swift-proxy swift-account swift-container swift-object python3-swift python3-swiftclient \
            python3-pyeclib liberasurecode1 libisal2 libjerasure2 memcached python3-xattr attr procps xz-utils
VERSION  := $(shell git describe --tags --always 2>/dev/null || echo unknown)
LDFLAGS   = -X main.version=$(VERSION)

.PHONY: all build deps demo test race lint conformance soak fuzz bench bench-codec lab-start lab-stop clean

all: build

build:                ## bin/imping, and bin/as/NAME/NAME for each Swift daemon it can stand in for
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(PREFIX)/imping ./cmd/imping
	mkdir -p $(PREFIX)/as/reconstructor $(PREFIX)/as/server
	ln -sfn ../../imping $(PREFIX)/as/reconstructor/swift-object-reconstructor
	ln -sfn ../../imping $(PREFIX)/as/server/swift-object-server

deps:                 ## Debian's Swift and what belongs to it; their services are not started
	@./lab/deps $(PACKAGES)

demo: build           ## wipe a disk of a cluster in one process and rebuild it, compared byte for byte; neither root nor Swift
	$(PREFIX)/imping demo

test: build deps      ## everything that must always hold; needs root for the lab
	$(GO) test -p 1 -timeout 900s ./...

# The fault matrix waits for timeouts most of its time, and what it exercises the unit tests do under -race.
race: build deps      ## the same under the race detector, but the fault matrix
	GORACE=atexit_sleep_ms=0 $(GO) test -p 1 -race -timeout 900s -skip '^TestWhateverPeersDo' ./...

lint:                 ## gofmt, vet, staticcheck
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fuzz:                 ## every fuzz target for FUZZTIME (20s)
	@./lab/fuzz $(or $(FUZZTIME),20s)

bench: build deps     ## stock and imping in turn on the lab; rewrites BENCHMARKS.md's table
	$(PREFIX)/imping bench --write BENCHMARKS.md

bench-codec: build    ## every scheme and kernel in memory; rewrites BENCHMARKS.md's tables; TAGS=isal with libisal-dev
	$(GO) run -tags '$(TAGS)' -ldflags '$(LDFLAGS)' ./cmd/imping bench codec --write BENCHMARKS.md

lab-start: build deps ## a real Swift cluster that stays: bin/imping lab exec -- swift-recon ... works in it
	$(PREFIX)/imping lab start

lab-stop: build
	$(PREFIX)/imping lab stop

conformance: build deps ## Swift's own probe tests with our reconstructor in its place; fetches Debian's source package
	@GO=$(GO) ./lab/conformance/run $(PREFIX)/as/reconstructor $(CONFORMANCE_FLAGS)

soak: build deps      ## break a real cluster and repair it for SOAKTIME, over and over; goes on where it was
	$(PREFIX)/imping soak --time $(SOAKTIME)

clean:
	rm -rf $(PREFIX)
