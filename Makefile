# What a person types. CI calls the same targets.
CARGO ?= cargo
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

TARGET = $$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
RELEASE = $(TARGET)/release
BENCH = exec $(RELEASE)/sallyport-bench

demo: ## build, start a gateway, a relay and a session on loopback, print the URL
	$(CARGO) build --workspace --bins --locked
	@exec $(TARGET)/debug/demo

test: ## install what the tests need and pass them all
	@tests/setup >/dev/null
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install cargo-nextest --locked
	$(CARGO) build --workspace --bins --locked
	SALLYPORT_TEST_PEERS=$$(tests/setup) $(CARGO) nextest run --workspace --locked
	$(CARGO) test --workspace --doc --locked

bench: bench-build ## measure beside the peers in twenty minutes, into benches/RESULTS.md
	@PATH="$$(benches/setup):$$PATH"; $(BENCH) --out benches

bench-quick: bench-build ## the most telling figures in three minutes
	@PATH="$$(benches/setup):$$PATH"; $(BENCH) --quick

# Ours are built alone: what the benchmark depends on must not change which features they have. So is our own peer. What
# only measures need not be linked for an hour.
bench-build:
	@benches/setup >/dev/null
	$(CARGO) build --release --locked -p sallyport-gateway -p sallyport-relay
	$(CARGO) build --release --locked -p sallyport-plain-quinn
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		$(CARGO) build --release --locked -p sallyport-benches

bench-micro: ## measure the mux, the copy loop, the codec of heads and scripts by themselves
	$(CARGO) bench --locked -p sallyport-benches

scorecard: ## measure the figures of reconnecting against their goals, as root, in some six minutes
	$(CARGO) build --release --locked -p sallyport-gateway -p sallyport-relay
	$(CARGO) build --release --locked -p sallyport-tests --bin scorecard
	@exec $(RELEASE)/scorecard

fmt: ## check the format
	$(CARGO) fmt --all -- --check

clippy: ## lint, warnings are errors
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings

doc: ## build the documentation, warnings are errors
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: ## check licences, sources, bans and, where its database is at hand, advisories
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny --workspace check bans licenses sources
	$(CARGO) deny --manifest-path gateway/Cargo.toml --config gateway/deny.toml check bans

ci: fmt clippy doc deny test ## everything, in CI's order

.PHONY: help demo test bench bench-quick bench-build bench-micro scorecard fmt clippy doc deny ci
