# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Those that need root say so.

# The compiler is pinned: another one makes other objects, and
# generate-check compares them byte for byte.
CLANG      ?= clang-19
LLVM_STRIP ?= llvm-strip-19
BPF_CFLAGS  = -O2 -g -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/$(shell gcc -print-multiarch 2>/dev/null)

.DEFAULT_GOAL := build

.PHONY: build
build: ## Build bin/xvrrpd and bin/xvrrpctl
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: generate
generate: deps-generate ## Rebuild the BPF objects and Go bindings
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=$(LLVM_STRIP) BPF2GO_CFLAGS="$(BPF_CFLAGS)" go generate ./loader

.PHONY: deps-generate
deps-generate:
	@command -v $(CLANG) >/dev/null || (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends clang-19 llvm-19 libbpf-dev)
