# Shardplane. `make help` lists the targets. Objects go to $(BUILD)/$(SAN or plain), binaries of the default build to bin/.
.DEFAULT_GOAL := build
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:

BUILD ?= build
# V=1 shows the commands.
Q := $(if $(V),,@)
SAN ?=
ifneq ($(filter-out asan tsan,$(SAN)),)
$(error SAN=$(SAN): asan and tsan are known)
endif
comma := ,
PYTHON ?= /usr/bin/python3
ifeq ($(origin CC),default)
CC := gcc
endif

OUT := $(BUILD)/$(if $(SAN),$(SAN),plain)
BIN := $(if $(filter build,$(BUILD)),$(if $(SAN),$(OUT)/bin,bin),$(OUT)/bin)
GEN := $(BUILD)/gen

# Compiler and linker flags come from pkg-config, so packages must be there before this file is read to its end: make remakes an
# included file first, and starts over. Targets that compile nothing install nothing.
DEPS_MK := $(BUILD)/deps.mk
ifneq ($(filter-out help clean deps down status docker-%,$(or $(MAKECMDGOALS),build)),)
include $(DEPS_MK)
endif
$(DEPS_MK): tools/deps.sh Makefile
	@tools/deps.sh
	@mkdir -p $(@D)
	@msgpack=$$(pkg-config --exists msgpack-c && echo msgpack-c || echo msgpack); \
	pkgs="libczmq libzmq $$msgpack libpq libcurl jansson libmicrohttpd libsodium"; \
	cflags=$$(pkg-config --cflags $$pkgs) && libs=$$(pkg-config --libs $$pkgs) && cmocka=$$(pkg-config --libs cmocka) && \
	printf 'PKG_CFLAGS := %s\nPKG_LIBS := %s -lpthread -lm\nCMOCKA_LIBS := %s\n' "$$cflags" "$$libs" "$$cmocka" > $@

WARN := -Wall -Wextra -Wconversion -Wno-sign-conversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wformat=2 $(if $(CI),-Werror)
ifeq ($(SAN),tsan)
export TSAN_OPTIONS ?= suppressions=$(CURDIR)/tests/tsan.supp
endif
SAN_FLAGS := $(if $(filter asan,$(SAN)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined) $(if $(filter tsan,$(SAN)),-fsanitize=thread)
CFLAGS ?= -O2 -g
ALL_CFLAGS := -std=gnu17 $(CFLAGS) -fno-omit-frame-pointer $(WARN) $(SAN_FLAGS) -I. -I$(GEN) $(PKG_CFLAGS) -D_GNU_SOURCE -MMD -MP
ALL_LDFLAGS := $(SAN_FLAGS) $(LDFLAGS)

SERVICES := router manager resharder health gateway
SCHEMAS := $(wildcard schemas/*.json)
FAMILIES := $(filter-out errors,$(basename $(notdir $(SCHEMAS))))
GEN_C := $(GEN)/schemas/errors.c $(FAMILIES:%=$(GEN)/schemas/%.c) $(GEN)/schemas/registry.c
GEN_H := $(GEN)/schemas/errors.h $(FAMILIES:%=$(GEN)/schemas/%.h)
SQL := $(wildcard common/*/sql/*.sql services/*/sql/*.sql)
GEN_SQL := $(SQL:%.sql=$(GEN)/%.h)

COMMON_C := $(filter-out common/client/%,$(wildcard common/*/*.c))
COMMON_O := $(COMMON_C:%.c=$(OUT)/%.o) $(GEN_C:$(GEN)/%.c=$(OUT)/gen/%.o)
LIBCOMMON := $(OUT)/libcommon.a

.PHONY: help build test unit ledger system demo bench up down status lint floors fuzz docs docs-check install clean deps gen $(SERVICES:%=run-%) \
        docker-build docker-up docker-logs docker-down client example

help: ## list the targets
	@{ grep -hE '^[a-z-]+:.*## ' Makefile; printf '%s\n' $(SERVICES) | sed 's/.*/run-&:## run the & with configs\/&.json (first: make up UP=--no-services)/'; } | \
	    sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'
	@printf '\nvariables:\n  %s\n  %s\n  %s\n  %s\n' \
	    'SAN=asan, SAN=tsan   with a sanitizer; objects and binaries go to build/$$SAN' \
	    'BUILD=DIR            everything that is built goes there' \
	    'V=1                  show the commands' \
	    'WORKERS=N            system tests side by side (0: one after the other)'

build: $(SERVICES:%=$(BIN)/%) $(BIN)/shardctl ## compile everything into bin/

deps: ## install what build, tests and demo need (quiet when nothing is missing)
	@tools/deps.sh

gen: $(GEN_C) $(GEN_SQL) ## field tables, error lists and embedded SQL

# ---- generated sources: one run of the generator makes all
$(GEN)/.schemas: $(SCHEMAS) tools/schemagen.py tools/c_escape.py
	@mkdir -p $(GEN)/schemas
	@echo "  GEN  $(GEN)/schemas"
	$(Q)$(PYTHON) tools/schemagen.py --schemas schemas --out $(GEN)/schemas
	@touch $@
$(GEN_C) $(GEN_H): $(GEN)/.schemas ;
$(GEN)/%.h: %.sql tools/sqlgen.py tools/c_escape.py
	@mkdir -p $(@D)
	$(Q)$(PYTHON) tools/sqlgen.py $< $@

# ---- compiling
# What is generated must be there first; which of it an object depends on stands in its .d file.
$(OUT)/%.o: %.c | $(GEN)/.schemas $(GEN_SQL)
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@
$(OUT)/gen/%.o: $(GEN)/%.c
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(LIBCOMMON): $(COMMON_O)
	@rm -f $@
	$(Q)ar rcs $@ $^

define SERVICE_RULE
$(1)_O := $$(patsubst %.c,$$(OUT)/%.o,$$(wildcard services/$(1)/*.c))
$$(BIN)/$(1): $$($(1)_O) $$(LIBCOMMON)
	@mkdir -p $$(@D)
	@echo "  LINK $$@"
	$(Q)$$(CC) $$(ALL_LDFLAGS) $$^ -o $$@ $$(PKG_LIBS)
run-$(1): $$(BIN)/$(1)
	$$(BIN)/$(1) --config configs/$(1).json
-include $$($(1)_O:.o=.d)
endef
$(foreach s,$(SERVICES),$(eval $(call SERVICE_RULE,$(s))))

SHARDCTL_O := $(patsubst %.c,$(OUT)/%.o,$(wildcard tools/shardctl/*.c))
$(BIN)/shardctl: $(SHARDCTL_O) $(LIBCOMMON)
	@mkdir -p $(@D)
	@echo "  LINK $@"
	$(Q)$(CC) $(ALL_LDFLAGS) $^ -o $@ $(PKG_LIBS)

# ---- tests: each tests/unit/*_test.c (and fsm, contract) is one cmocka program; pure files of services are linked by name
TEST_C := $(wildcard tests/unit/*_test.c tests/fsm/*_test.c tests/contract/*_test.c)
TEST_BIN := $(TEST_C:%.c=$(OUT)/%)
# Pure files of services that unit tests link.
TEST_EXTRA_C := $(wildcard services/*/pure_*.c)
TEST_EXTRA_O := $(TEST_EXTRA_C:%.c=$(OUT)/%.o)
CLIENT_O := $(patsubst %.c,$(OUT)/%.o,$(wildcard common/client/*.c))
LIBCLIENT := $(OUT)/libclient.a
$(LIBCLIENT): $(CLIENT_O)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(TEST_BIN): $(OUT)/%: $(OUT)/%.o $(TEST_EXTRA_O) $(LIBCLIENT) $(LIBCOMMON)
	@echo "  LINK $@"
	$(Q)$(CC) $(ALL_LDFLAGS) $^ -o $@ $(PKG_LIBS) $(CMOCKA_LIBS)

unit: $(TEST_BIN) ## unit, state machine and contract tests in C
	@set -e; for t in $(TEST_BIN); do echo "== $$t"; $$t; done

# ---- the public library: position-independent objects of the floors that it stands on
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
CLIENT_VERSION := $(shell sed -n 's/^\#define SHARDPLANE_VERSION "\(.*\)"/\1/p' common/client/shardplane.h)
CLIENT_SO := libshardplane.so.0
CLIENT_C := $(wildcard common/client/*.c common/base/*.c common/wire/*.c common/ring/*.c common/mesh/*.c)
CLIENT_PIC_O := $(CLIENT_C:%.c=$(OUT)/pic/%.o) $(GEN_C:$(GEN)/%.c=$(OUT)/pic/gen/%.o)
CLIENT_LIBS := -lczmq -lzmq -ljansson -lsodium -lpthread
# Never with a sanitizer: its runtime ends a process that loads it late, as Python does in tests/system/test_client.py. The same sources
# run under sanitizers in tests/contract/client_test.c.
PIC_CFLAGS := $(filter-out $(SAN_FLAGS),$(ALL_CFLAGS)) -fPIC
$(OUT)/pic/%.o: %.c | $(GEN)/.schemas
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(PIC_CFLAGS) -c $< -o $@
$(OUT)/pic/gen/%.o: $(GEN)/%.c
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(PIC_CFLAGS) -c $< -o $@
$(BIN)/$(CLIENT_SO): $(CLIENT_PIC_O) common/client/shardplane.map
	@mkdir -p $(@D)
	@echo "  LINK $@"
	$(Q)$(CC) -shared $(LDFLAGS) -Wl,-soname,$(CLIENT_SO) -Wl,--version-script=common/client/shardplane.map $(CLIENT_PIC_O) -o $@ $(CLIENT_LIBS)
	@ln -sf $(CLIENT_SO) $(BIN)/libshardplane.so
client: $(BIN)/$(CLIENT_SO) ## the public library libshardplane
$(BIN)/example: examples/transfer.c $(BIN)/$(CLIENT_SO)
	@echo "  LINK $@"
	$(Q)$(CC) -std=c99 -Wall -Wextra -pedantic -Icommon/client $< -o $@ -L$(BIN) -lshardplane -Wl,-rpath,$(abspath $(BIN))
example: $(BIN)/example ## a small program that uses it

install: build client ## binaries, library, header and pkg-config file under PREFIX (DESTDIR is honoured)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	for b in $(SERVICES); do install -m 755 $(BIN)/$$b $(DESTDIR)$(PREFIX)/bin/shardplane-$$b; done
	install -m 755 $(BIN)/shardctl $(DESTDIR)$(PREFIX)/bin/shardctl
	install -m 755 $(BIN)/$(CLIENT_SO) $(DESTDIR)$(LIBDIR)/$(CLIENT_SO)
	ln -sf $(CLIENT_SO) $(DESTDIR)$(LIBDIR)/libshardplane.so
	install -m 644 common/client/shardplane.h $(DESTDIR)$(INCLUDEDIR)/shardplane.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@VERSION@|$(CLIENT_VERSION)|' \
	    common/client/shardplane.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/libshardplane.pc

# ---- the private stack, checks, containers
up: build ## start etcd, three PostgreSQL clusters and the services on the default ports (UP="--replicas 1": options)
	@tools/localstack up --bin $(BIN) $(UP)
down: ## stop what `make up` started; data stay in build/stack (DOWN=--purge: they do not)
	@tools/localstack down $(DOWN)
status: ## what runs where (JSON=1 for programs)
	@tools/localstack status $(if $(JSON),--json) || true

# ---- tests that need PostgreSQL, and the demo
ledger: ## the ledger's checker, with each defect planted
	@$(PYTHON) -m pytest -q tests/ledger $(PYTEST)
# The follower without a manager, for tests/system/test_follow.py.
FOLLOW_RIG := $(OUT)/tests/system/follow_rig
FOLLOW_RIG_O := $(patsubst %.c,$(OUT)/%.o,$(wildcard services/resharder/follow*.c services/resharder/lane*.c \
                  services/resharder/fence*.c) services/resharder/pure_follow.c \
                  services/resharder/task_tables.c tests/system/follow_rig.c)
$(FOLLOW_RIG): $(FOLLOW_RIG_O) $(LIBCOMMON)
	@mkdir -p $(@D)
	@echo "  LINK $@"
	$(Q)$(CC) $(ALL_LDFLAGS) $^ -o $@ $(PKG_LIBS)
-include $(FOLLOW_RIG_O:.o=.d)

# WORKERS=2 and more: side by side, each worker with stacks of its own. It gains little on two cores, which are busy with one already.
WORKERS ?= 0
system: build client $(FOLLOW_RIG) ## the real stack, driven as an outsider would (PYTEST="-k name -x")
	@SP_BIN=$(abspath $(BIN)) SP_FOLLOW_RIG=$(abspath $(FOLLOW_RIG)) $(if $(SAN),SP_SLOW=4) \
	    $(PYTHON) -m pytest -q -n $(WORKERS) tests/system $(PYTEST)
test: build floors docs-check unit ledger system ## everything that CI runs
# These start servers and have deadlines: one after the other, also under `make -j`.
ifneq ($(filter test,$(MAKECMDGOALS)),)
ledger: | unit
system: | ledger
endif

demo: build ## split a live shard and prove that nothing was lost (KEEP=1: leave the stack up)
	@$(PYTHON) tools/demo.py --bin $(BIN) $(if $(KEEP),--keep) $(DEMO)

floors: ## check the may-include table of docs/architecture.md, and docs/failpoints.md
	@$(PYTHON) tools/floors.py --self-test
	@$(PYTHON) tools/floors.py
	@$(PYTHON) tools/failpoints.py --check
docs: $(OUT)/tests/fsm/job_fsm_test ## write docs/openapi.json, messages.md and job-states.md from schemas/ and the table of states
	$(PYTHON) tools/schemagen.py --schemas schemas --openapi docs/openapi.json --messages docs/messages.md
	@SP_WRITE_DOCS=1 $< >/dev/null 2>&1
docs-check: ## the generated documents are what the schemas say
	@$(PYTHON) tools/schemagen.py --schemas schemas --openapi docs/openapi.json --messages docs/messages.md --check
lint: gen ## banned calls, format, cppcheck, clang-tidy (STEPS="banned format": only these)
	@tools/deps.sh lint
	@BUILD=$(BUILD) tools/lint.sh $(STEPS)

# ---- fuzzing (libFuzzer) and benches
FUZZ_SECONDS ?= 60
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_C := $(wildcard common/base/*.c common/wire/*.c common/config/*.c common/pg/*.c) $(GEN_C)
$(FUZZ_BIN): $(BUILD)/fuzz/%: tests/fuzz/%.c $(FUZZ_C) $(GEN_SQL)
	@tools/deps.sh fuzz
	@mkdir -p $(@D)
	@echo "  FUZZ $@"
	$(Q)clang -std=gnu17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -D_GNU_SOURCE -I. -I$(GEN) $(PKG_CFLAGS) \
	    $< $(FUZZ_C) -o $@ $(PKG_LIBS)
fuzz: $(FUZZ_BIN) ## random bytes into every decoder, FUZZ_SECONDS each; a finding stays in build/fuzz
	@set -e; for f in $(FUZZ_BIN); do mkdir -p $$f.corpus; echo "== $$f"; \
	    $$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=$$f- $$f.corpus 2>&1 | tail -n 12 | \
	    grep -E "stat::|ERROR|SUMMARY|Test unit" ; test $${PIPESTATUS[0]} = 0; done

BENCH_BIN := $(patsubst %.c,$(OUT)/%,$(wildcard tests/bench/*_bench.c))
$(BENCH_BIN): $(OUT)/%: $(OUT)/%.o $(LIBCOMMON)
	@echo "  LINK $@"
	$(Q)$(CC) $(ALL_LDFLAGS) $^ -o $@ $(PKG_LIBS)
bench: $(BENCH_BIN) ## speed as ratios against a peer or a limit of the same run
	@set -e -o pipefail; for b in $(BENCH_BIN); do $$b | tee $(BUILD)/$$(basename $$b).json; done

# The plugin where there is one; Debian's package is the program of its own.
COMPOSE ?= $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose)
docker-build: ## build the images (needs a Docker engine and docker-compose)
	$(COMPOSE) build
docker-up: ## start the containers
	$(COMPOSE) up -d
docker-logs: ## follow their logs
	$(COMPOSE) logs -f
docker-down: ## stop and remove them; volumes stay
	$(COMPOSE) down

-include $(CLIENT_O:.o=.d) $(CLIENT_PIC_O:.o=.d) $(COMMON_O:.o=.d) $(SHARDCTL_O:.o=.d) $(TEST_C:%.c=$(OUT)/%.d) $(BENCH_BIN:=.d)

clean: ## remove what was built, and stop and remove the stacks in it
	@for s in $$(find $(BUILD) -name stack.json 2>/dev/null); do tools/localstack down --purge --dir $$(dirname $$s) || exit 1; done
	rm -rf $(BUILD) $(if $(filter build,$(BUILD)),bin)
