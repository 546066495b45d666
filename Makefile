# The one door to this repository; .ci/run uses the same targets. `make help` lists them.

CARGO ?= cargo
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
REDIS_MODULE_DIR ?= /usr/lib/redis/modules
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
PG_PACKAGE := $(TARGET_DIR)/release/tandem-pg15
FAULT_POINTS_PACKAGE := $(TARGET_DIR)/debug/tandem-pg15-fault-points
REDIS_MODULE := $(TARGET_DIR)/release/libtandem_redis.so
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

export CARGO_TARGET_DIR := $(TARGET_DIR)
export PG_CONFIG
# What the suites, the demo and the benchmarks load into their private servers.
export TANDEM_PG_PACKAGE := $(PG_PACKAGE)
export TANDEM_PG_FAULT_POINTS_PACKAGE := $(FAULT_POINTS_PACKAGE)
export TANDEM_REDIS_MODULE := $(REDIS_MODULE)
# For every cargo call that meets the extension's crate.
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)

.DEFAULT_GOAL := help
.PHONY: help setup build build-faults demo test test-faults lint bench install package clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 13

setup: ## install what is missing: Postgres 15, Redis, clang, cargo-pgrx (asks apt only if something is)
	@dev/setup.sh

build: setup ## release build of the extension and of the module
	$(CARGO) build --release --locked -p tandem-redis
	$(CARGO) pgrx package -p tandem --pg-config $(PG_CONFIG) --out-dir $(PG_PACKAGE)

build-faults: build ## a debug build of the extension with places where a worker dies on request, for the suites alone
	$(CARGO) pgrx package --debug -p tandem --features "pg15 fault-points" --pg-config $(PG_CONFIG) \
		--out-dir $(FAULT_POINTS_PACKAGE)

demo: build ## real data in a private Redis and Postgres, kept equal through a crash and a repair (KEEP=1 leaves them up)
	$(CARGO) run --locked -q -p tandem-tests --bin demo

test: build-faults ## every test, against real servers where one is needed; ends with a line of counts
	@dev/test.sh

test-faults: build-faults ## the long form of the fault suites: FAULT_SEEDS=20 random runs, or the one that SEED= names
	$(CARGO) test --locked -p tandem-tests --test fault_points
	FAULT_SEEDS=$(or $(FAULT_SEEDS),20) $(CARGO) test --locked -p tandem-tests --test faults -- --nocapture

lint: setup ## formatting and clippy over every crate, warnings refused
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p tandem --features fault-points -- -D warnings

bench: build ## ratios measured side by side on this machine
	$(CARGO) run --release --locked -q -p tandem-bench

install: build ## into the Postgres of PG_CONFIG and into REDIS_MODULE_DIR
	@dev/install.sh $(PG_PACKAGE) $(REDIS_MODULE) "$(DESTDIR)" $(REDIS_MODULE_DIR)

package: build ## a tar.gz of extension, module, README and LICENSE in the target directory
	@dev/package.sh $(PG_PACKAGE) $(REDIS_MODULE) $(VERSION) $(TARGET_DIR)

clean: ## remove what was built
	$(CARGO) clean
