# `make` lists the targets. `make demo` and `make test` do all set-up themselves.
.DEFAULT_GOAL := help
SHELL := /bin/sh
CARGO := $(if $(CARGO),$(CARGO),$(shell tools/find.sh cargo 2>/dev/null || echo cargo))
PREFIX ?= /usr/local
MODELS := $(if $(ROCMFORGE_MODELS),$(ROCMFORGE_MODELS),models)
SMOLLM2 := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
PEER := $(if $(ROCMFORGE_PEER),$(ROCMFORGE_PEER),build/peer)
ROCMFORGE := target/release/rocmforge
# Kernels for the cards in this machine, else for one target, unless ROCm_ARCH says more: `make` builds for use here.
# `cargo build --release`, CMake and `make install` have them all; cargo's dev profile those that the tests execute, and
# the tests of code objects compile the rest.
ARCH := native
BUILD = $(if $(ARCH),ROCm_ARCH="$${ROCm_ARCH:-$(ARCH)}") ROCMFORGE_PROGRESS_FD=9 $(CARGO) build --release 9>&2

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## set up, build, fetch a small model and let it answer
	@tools/setup.sh demo
	@echo "== building (a minute or two)" >&2
	@$(BUILD)
	@tools/get_models.sh smollm2
	"$(ROCMFORGE)" generate -m "$(SMOLLM2)" --chat -p 'Why is the sky blue?' -n 96 --seed 1

.PHONY: test
test: ARCH :=
test: demo ## the same, then every test
	@tools/setup.sh test
	@tools/get_models.sh
	@tools/get_zig.sh
	@tools/get_templates.sh
	@tests/c/run.sh
	@$(CARGO) test --quiet --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --cargo-quiet --no-fail-fast; \
	else \
		$(CARGO) test --workspace --quiet --no-fail-fast --lib --bins --tests; \
	fi

.PHONY: emulator
emulator: ## build the stand-in libamdhip64.so that executes kernels without a GPU
	@$(CARGO) build --quiet -p rocmforge-emulator

.PHONY: emulate
emulate: emulator ## run the command line on an emulated card: make emulate ARGS="devices" [CARD=gfx1201]
	@$(CARGO) build --quiet --bin rocmforge
	ROCMFORGE_HIP_LIBRARY=target/debug/libamdhip64.so $(if $(CARD),ROCMFORGE_EMULATOR_CARD=$(CARD)) \
		target/debug/rocmforge $(ARGS)

.PHONY: emulate-full
emulate-full: ## the operations' tests at the full shapes that CI cuts, and variants of architectures, on emulated cards (minutes)
	@$(CARGO) test --test hip --test archs -- --ignored

.PHONY: paper
paper: ## the table "On paper for AMD" of docs/PERFORMANCE.md: what a token's kernels ask of an emulated gfx1100
	@$(CARGO) test --quiet --test hip -- --table

.PHONY: build
build: ## the library and the command line, optimized
	@$(BUILD)

.PHONY: lib
lib: ## the library alone, without the crates that only the command line needs
	@$(BUILD) --lib --no-default-features --features hip

.PHONY: models
models: ## fetch both test models
	@tools/setup.sh demo
	@tools/get_models.sh

.PHONY: header
header: ## write include/rocmforge.h anew
	@$(CARGO) run --quiet -p rocmforge-header

.PHONY: fmt
fmt: ## format the sources
	@$(CARGO) fmt

.PHONY: lint
lint: ## formatting and clippy, warnings are errors
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

.PHONY: doc
doc: ## the Rust API's documentation, warnings are errors
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps

.PHONY: peer
peer: ## build llama.cpp, the peer that figures are compared with
	@tools/setup.sh peer
	@tools/peer_build.sh $(PEER)

.PHONY: bench
bench: build models ## compare speed and memory with the peer (after make peer)
	@tools/compare.py --peer $(PEER)/bin

.PHONY: kl
kl: build models ## compare exactness with the peer (after make peer; needs 6 GB of disk)
	@tools/get_models.sh gemma3
	@tools/kl.py --peer $(PEER)/bin

.PHONY: conformance
conformance: DEVICE := cpu
conformance: peer emulator ## hold all architectures against llama.cpp, with weights of a new SEED (DEVICE=cpu,hip: on the emulated CARD too)
	ROCMFORGE_HIP_LIBRARY=target/debug/libamdhip64.so ROCMFORGE_EMULATOR_CARD=$(or $(CARD),gfx1100) \
		$(CARGO) run --quiet --release --example conformance -- $(PEER)/bin \
		--seed "$${SEED:-$$(date +%s)}" --device reference,$(DEVICE) --write docs/COMPATIBILITY.md

.PHONY: install
install: ## library, header, CMake and pkg-config files, command line, to PREFIX (/usr/local)
	@tools/setup.sh install
	@tools/install.sh "$(PREFIX)"

.PHONY: clean
clean: ## remove what was built (models stay)
	@$(CARGO) clean --quiet
	@rm -rf build
