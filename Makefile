# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. demo, test and bench need root: they build
# hosts from network namespaces and load BPF programs.

# The compiler is pinned: another one makes other objects, and generate-check
# compares them byte for byte.
CLANG       ?= clang-19
LLVM_STRIP  ?= llvm-strip-19
BPF_CFLAGS   = -O2 -g -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/$(shell gcc -print-multiarch 2>/dev/null)
STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.8.2

FUZZTIME    ?= 5s
# Without a limit the search for a shorter form of each interesting input takes
# up to a minute, in which nothing else is tried.
FUZZ         = go test -run XXX -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -fuzz

.DEFAULT_GOAL := build

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## Build bin/xvrrpd and bin/xvrrpctl
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: install
install: build ## Install the programs below $(DESTDIR)/usr/local, and the systemd unit
	install -D -t $(DESTDIR)/usr/local/sbin bin/xvrrpd
	install -D -t $(DESTDIR)/usr/local/bin bin/xvrrpctl
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system packaging/xvrrpd.service

.PHONY: demo
demo: deps-demo ## Play the main job: two hosts, one address, a crash (root, 20 s)
	go run ./test/cmd/demo

.PHONY: test
test: deps-test lint generate-check ## Everything: lint, unit tests, BPF rows, lab, interop, fuzz smoke (root)
	go test -race ./control/... ./vip/... ./loader/... ./cmd/... ./test/arch/... ./test/lab/... ./test/cmd/...
	$(MAKE) --no-print-directory fuzz
	go test -count=1 -timeout 20m ./test/e2e/...

.PHONY: unit
unit: ## Tests that need no root; the others skip themselves
	go test ./control/... ./vip/... ./loader/... ./cmd/... ./test/arch/... ./test/lab/... ./test/cmd/...

.PHONY: fuzz
fuzz: ## Fuzz every parser for $(FUZZTIME)
	$(FUZZ) FuzzDecode ./control/packet
	$(FUZZ) FuzzParseFrame ./control/packet
	$(FUZZ) FuzzParse ./control/config
	$(FUZZ) FuzzMessages ./vip
	$(FUZZ) FuzzDifferential ./loader
	$(FUZZ) FuzzReflector ./loader

.PHONY: kernels
kernels: deps-kernels ## Run the tests of the BPF side on Debian's 6.1 and 6.12 kernels under qemu (10 minutes)
	test/kernels/run.sh 6.1 6.12

.PHONY: bench
bench: deps-bench ## Measure beside keepalived and FRR, and BEFORE=revision (root, 90 minutes, a quiet machine)
	go run ./test/cmd/bench -before "$(BEFORE)"

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, go mod tidy
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go mod tidy -diff

.PHONY: generate
generate: deps-generate ## Rebuild the BPF objects and their Go bindings
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=$(LLVM_STRIP) BPF2GO_CFLAGS="$(BPF_CFLAGS)" go generate ./loader

.PHONY: generate-check
generate-check: generate ## Fail if the committed objects are not those of the sources
	git diff --exit-code -- 'loader/rx_bpf*'

# What each target needs, as Debian packages; looked for before it is installed.
need = @missing=; for pair in $(1); do command -v $${pair%%:*} >/dev/null 2>&1 || test -e $${pair%%:*} || missing="$$missing $${pair\#\#*:}"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends $$missing >/dev/null; fi

LAB       = ip:iproute2 nsenter:util-linux sysctl:procps tcpdump:tcpdump ping:iputils-ping
PEERS     = keepalived:keepalived nft:nftables bpftool:bpftool setpriv:util-linux systemd-analyze:systemd
GENERATE  = $(CLANG):clang-19 $(LLVM_STRIP):llvm-19 /usr/include/bpf/bpf_helpers.h:libbpf-dev gcc:gcc

.PHONY: deps-demo deps-test deps-bench deps-generate deps-kernels
deps-demo:
	$(call need,$(LAB))
deps-test:
	$(call need,$(LAB) $(PEERS) $(GENERATE) tshark:tshark)
deps-bench:
	$(call need,$(LAB) $(PEERS) /usr/lib/frr/vrrpd:frr chrt:util-linux)
deps-kernels:
	$(call need,qemu-system-x86_64:qemu-system-x86 cpio:cpio xz:xz-utils)
deps-generate:
	$(call need,$(GENERATE))

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin bench-results
