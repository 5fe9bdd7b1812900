# imping: make demo needs nothing but Go; make test Debian 12, Go and root.
GO       ?= go
PREFIX   ?= bin
SOAKTIME ?= 45m
PACKAGES  = swift-proxy swift-account swift-container swift-object python3-swift python3-swiftclient \
            python3-pyeclib liberasurecode1 libisal2 libjerasure2 memcached python3-xattr attr procps xz-utils xfsprogs
VERSION  := $(shell git describe --tags --always 2>/dev/null || echo unknown)
LDFLAGS   = -X main.version=$(VERSION)

.PHONY: all build deps demo test test-arm64 count-arm64 race lint conformance soak fuzz bench bench-serve bench-object bench-write bench-relink bench-codec lab-start lab-stop clean

all: build

build:                ## bin/imping, and bin/as/NAME/NAME for each Swift daemon it can stand in for
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(PREFIX)/imping ./cmd/imping
	mkdir -p $(PREFIX)/as/reconstructor $(PREFIX)/as/server $(PREFIX)/as/relinker
	ln -sfn ../../imping $(PREFIX)/as/reconstructor/swift-object-reconstructor
	ln -sfn ../../imping $(PREFIX)/as/server/swift-object-server
	ln -sfn ../../imping $(PREFIX)/as/relinker/swift-object-relinker

deps:                 ## Debian's Swift and what belongs to it; their services are not started
	@./lab/deps $(PACKAGES) $(if $(filter isal,$(TAGS)),libisal-dev)

demo: build           ## wipe a disk of a cluster in one process and rebuild it, compared byte for byte; neither root nor Swift
	$(PREFIX)/imping demo

# Packages with tests that start a cluster, or measure: one at a time.
LAB = ^imping/(bench|cmd|lab)/

test: build deps      ## everything that must always hold; needs root for the lab; TAGS=isal with ISA-L's kernel too
	$(GO) test -p 2 -timeout 900s -tags '$(TAGS)' $$($(GO) list ./... | grep -vE '$(LAB)')
	$(GO) test -p 1 -timeout 900s -tags '$(TAGS)' $$($(GO) list ./... | grep -E '$(LAB)')

# What counts solutions of matrices, without a kernel, is left to make test: it takes half of codec's time when
# emulated. Goroutines are not preempted by signals: those cost a twelfth of the time there.
test-arm64: deps      ## native and codec for arm64, on an emulated CPU
	@./lab/deps qemu-user-static
	GOARCH=arm64 $(GO) build ./...
	GOARCH=arm64 GODEBUG=asyncpreemptoff=1 $(GO) test -exec qemu-aarch64-static -timeout 900s \
		-skip '^(TestAnyKFragmentsOfAnMDSCodeAreEnough|TestFlatXORSurvivesFewerLossesThanItsDistance|TestSingularSetsAreThoseKnownOfISAL)$$' \
		./native ./codec

count-arm64:          ## instructions of native's kernels on arm64: the table of BENCHMARKS.md
	@./lab/deps qemu-user-static
	@GO=$(GO) ./lab/instructions

# Who serves makes no difference to races in a pass: what the embedded half of TestScenario* does, the real half
# and the wiped device of all policies do again, against servers in Python. `imping fragment` is engine/rescue, which
# has tests of its own. The fault matrix waits for timeouts most of its time, and what it exercises the unit tests
# do. Long comparisons with Swift, in io/diskfile, netfast/server and lab/real, are one thing after the other, as are
# writers that are killed at every step, counts of matrices, and refusals of options; passes that are killed are made
# whole elsewhere. What stays of the real cluster has many sessions at once: the receivers' limits, handoffs, rot,
# point repairs, our servers.
NORACE = ^TestStockAndImping|^TestMutantsOf|^TestBenchRebuild$$|^TestWhateverPeersDo|^TestScenario/^real$$|^TestAWipedDeviceComesBack|^TestArchivesSavedFromDisks|^TestRandom(Replicated)?(Partitions|Writes)|^TestObjectsAre(Given|Written)AsSwiftDoes$$|^TestStockReconstructorsBringBack|^TestTheEmbeddedClusterStores|^TestDashboardsSeeNoDifference|^TestOurServersTakeWhatProxiesSend|^TestKilledRelinkersLoseNothing|^TestRandomDisksAreRelinked|^TestEveryEngineWrites|^TestReconstructorObeysSwiftInit|^TestPowerFailure|^TestKilledWriters|^TestAllOfAFlatXORCode|^TestSingularSets|^TestFlatXORSurvives|^TestAnyKFragments|^TestOnEveryFileSystem|^TestSurvivorsThatBreakOff|^TestPutsInPhases|^TestPassesLeaveNothing|^TestScenarioNodesWithDifferentRings|^TestScenarioServersAreKilled|^TestScenarioPassesAreKilled|^TestCheckNames|^TestWrongWords|^TestWhatCanNotRun|^TestEveryOption

# swift and native start no goroutines, and bench measures.
race: build deps      ## the same under the race detector, but what adds nothing there
	GORACE=atexit_sleep_ms=0 $(GO) test -p 2 -race -timeout 900s -skip '$(NORACE)' $$($(GO) list ./... | grep -vE '^imping/(cmd|lab|bench|swift|native)')
	GORACE=atexit_sleep_ms=0 $(GO) test -p 1 -race -timeout 900s -skip '$(NORACE)' $$($(GO) list ./... | grep -E '^imping/(cmd|lab)/')

lint:                 ## gofmt, vet, staticcheck, for both architectures that have assembly; that it is what the generators write
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	@staticcheck=$$($(GO) tool -n staticcheck) && for arch in amd64 arm64; do \
		echo "vet, staticcheck for $$arch"; \
		GOARCH=$$arch $(GO) vet ./... && GOARCH=$$arch $$staticcheck ./... || exit 1; \
	done
	@before=$$(cat native/kernels_*.s native/kernels_*.go native/md5/kernels_* | sha256sum); $(GO) generate ./native ./native/md5; \
	[ "$$before" = "$$(cat native/kernels_*.s native/kernels_*.go native/md5/kernels_* | sha256sum)" ] || { echo "native's assembly was not what its generators write, and is now"; exit 1; }

fuzz:                 ## every fuzz target for FUZZTIME (20s)
	@./lab/fuzz $(or $(FUZZTIME),20s)

bench: build deps     ## passes of imping, of stock and of a bare program in turn; rewrites BENCHMARKS.md's tables and plots
	$(PREFIX)/imping bench rebuild $(if $(QUICK),--quick,--write BENCHMARKS.md)

bench-serve: build deps ## stock's object server and ours in turn on the lab; rewrites BENCHMARKS.md's table
	$(PREFIX)/imping bench serve --write BENCHMARKS.md

bench-object: build deps ## PUTs and GETs of objects by Swift's proxy and without it, with either's servers; rewrites BENCHMARKS.md's table
	$(PREFIX)/imping bench object --write BENCHMARKS.md

bench-write: build deps ## what a file on the disk costs, by io_uring, plainly and by Swift; rewrites BENCHMARKS.md's table
	$(PREFIX)/imping bench write --write BENCHMARKS.md

bench-relink: build deps ## stock's relinker, ours and a bare loop in turn, on TMPDIR's file system; rewrites BENCHMARKS.md's table
	$(PREFIX)/imping bench relink --write BENCHMARKS.md

bench-codec: build    ## every scheme and kernel in memory; rewrites BENCHMARKS.md's tables; TAGS=isal with libisal-dev
	$(GO) run -tags '$(TAGS)' -ldflags '$(LDFLAGS)' ./cmd/imping bench codec --write BENCHMARKS.md

lab-start: build deps ## a real Swift cluster that stays: bin/imping lab exec -- swift-recon ... works in it
	$(PREFIX)/imping lab start

lab-stop: build
	$(PREFIX)/imping lab stop

conformance: build deps ## Swift's own tests with our programs in place of its; fetches Debian's source package; CONFORMANCE_FLAGS=-test.short for a part
	@GO=$(GO) ./lab/conformance/run $(PREFIX)/as $(CONFORMANCE_FLAGS)

soak: build deps      ## kill servers in the middle of writes, and relinkers; relink random disks beside Swift; make 500 passes while things break; kill proxies in the middle of PUTs; raise a cluster's partition power; break a real cluster and repair it for SOAKTIME, over and over; 300 random clusters against stock, in pieces of SOAKTIME; goes on where it was
	IMPING_CRASH_ROUNDS=200 $(GO) test -count=1 -timeout 1800s -run '^TestKilledServersLeaveWholeFiles$$' ./netfast/server
	$(GO) test -count=1 -timeout 7200s -run '^TestRandomDisksAreRelinked|^TestKilledRelinkers' ./engine/relink -seeds 300 -kills 200 -state $${TMPDIR:-/tmp}/imping-relink-soak
	IMPING_PASSES=500 $(GO) test -count=1 -timeout 1200s -run '^TestPassesLeaveNothingBehind$$' ./cmd/imping
	IMPING_SCENARIOS=all $(GO) test -count=1 -timeout 2400s -run '^TestScenarioNodesWithDifferentRings$$|^TestScenarioServersAreKilled|^TestAProxyIsKilled|^TestObjectsGoBothWays$$' ./cmd/imping
	IMPING_RAISE_POWER=1 $(GO) test -count=1 -timeout 600s -run '^TestAPartitionPowerIsRaisedUnderLoad$$' ./cmd/imping
	$(PREFIX)/imping soak --time $(SOAKTIME)
	IMPING_MUTANTS=1 $(GO) test -count=1 -timeout 1800s -run '^TestMutantsOfImpingAreCaught$$' ./lab/differential
	$(PREFIX)/imping soak differential --time $(SOAKTIME)

clean:
	rm -rf $(PREFIX)
