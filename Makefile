# Build, test and run Nocturne. `make help` lists the targets.
#   make all                        release build into build/
#   make SAN=1 BUILD=build/san all  the same under ASan + UBSan (what the tests run)
#   make CC=clang BUILD=build/clang all

.DEFAULT_GOAL := help
BUILD    ?= build
CC       ?= cc
PREFIX   ?= /usr/local
PKGS     := libuv libpq libcurl
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wcast-qual -Wwrite-strings -Wvla -Wimplicit-fallthrough -Werror
VERSION  := 0.1.0
ifdef SAN
OPT      := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -DTEST_HOOKS
LDFLAGS  += -fsanitize=address,undefined
else
OPT      := -O2 -g -D_FORTIFY_SOURCE=2
endif
CFLAGS   += -std=gnu11 $(OPT) -fno-strict-aliasing -fstack-protector-strong -fno-omit-frame-pointer
CPPFLAGS += -D_GNU_SOURCE -DNOCTURNE_VERSION='"$(VERSION)"' -Ilib -I$(BUILD)/gen \
            $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# cJSON and wslay have no pkg-config file on every system
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lcjson -lwslay -lcrypto
LLHTTP   ?= /usr/share/llhttp
LLHTTP_INC ?= /usr/share/include

objs      = $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard $(1)))
QUERIES  := $(sort $(wildcard sql/queries/*.sql))
SCHEMA   := $(sort $(wildcard sql/schema/*.sql sql/functions/*.sql))
MIGRATE  := $(sort $(wildcard sql/migrate/*.sql))
GEN      := $(patsubst %,$(BUILD)/gen/%.h,sql migrations migrate_sql)
LIB      := $(call objs,lib/*.c) $(GEN:.h=.o) \
            $(patsubst %,$(BUILD)/obj/llhttp/%.o,api http llhttp)
PROGRAMS := $(addprefix $(BUILD)/bin/,nocturne nocturne-api nocturne-worker nocturne-scheduler)
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))
FAKES    := $(patsubst tests/fake/%.c,$(BUILD)/tests/fake/%,$(wildcard tests/fake/*.c))
BENCHES  := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(wildcard tests/bench/*.c))
SOURCES   = $(shell find lib api worker scheduler tests -name '*.[ch]')

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14
packages:
	@docker/deps.sh
deps: packages ## install what is missing: Debian packages (root or sudo), npm's for the tests
	@tests/wire/npm.sh
all: $(PROGRAMS) ## build the four programs into build/bin

$(BUILD)/bin/nocturne: $(call objs,api/cli/*.c) $(BUILD)/lib.a
$(BUILD)/bin/nocturne-api: $(call objs,api/*.c api/wire/*.c) $(BUILD)/lib.a
$(BUILD)/bin/nocturne-worker: $(call objs,worker/*.c worker/model/*.c worker/tool/*.c) $(BUILD)/lib.a
$(BUILD)/bin/nocturne-scheduler: $(call objs,scheduler/*.c) $(BUILD)/lib.a
$(BUILD)/obj/api/%.o: CPPFLAGS += -Iapi
$(BUILD)/obj/worker/%.o: CPPFLAGS += -Iworker
$(BUILD)/obj/scheduler/%.o: CPPFLAGS += -Ischeduler
# Only the strict build of llhttp 8 refuses what smugglers send; lib/httpd_conn.h checks.
# http%.o and not httpd%.o: a pattern never matches the empty text.
$(BUILD)/obj/lib/http%.o $(BUILD)/obj/llhttp/%.o: CPPFLAGS += -DLLHTTP_STRICT_MODE=1 \
    -idirafter $(LLHTTP_INC) -idirafter $(LLHTTP_INC)/llhttp

$(BUILD)/lib.a: $(LIB)
	@rm -f $@
	$(AR) rcs $@ $^
$(BUILD)/gen/sql.h $(BUILD)/gen/sql.c &: $(QUERIES) sql/embed.sh
	@mkdir -p $(BUILD)/gen
	sql/embed.sh queries $(BUILD)/gen $(QUERIES)
$(BUILD)/gen/migrations.h $(BUILD)/gen/migrations.c &: $(SCHEMA) sql/embed.sh
	@mkdir -p $(BUILD)/gen
	sql/embed.sh schema $(BUILD)/gen $(SCHEMA)
$(BUILD)/gen/migrate_sql.h $(BUILD)/gen/migrate_sql.c &: $(MIGRATE) sql/embed.sh
	@mkdir -p $(BUILD)/gen
	sql/embed.sh migrate $(BUILD)/gen $(MIGRATE)
$(BUILD)/obj/llhttp/%.o: $(LLHTTP)/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -w -c -o $@ $<
$(BUILD)/obj/%.o: %.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -MMD -MP -c -o $@ $<
$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
$(PROGRAMS):
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/lib.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/lib.a $(LDLIBS) -lcmocka
$(BUILD)/tests/fake/%: $(BUILD)/obj/tests/fake/%.o $(BUILD)/lib.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/lib.a $(LDLIBS)
$(BUILD)/tests/bench/%: $(BUILD)/obj/tests/bench/%.o $(BUILD)/lib.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/lib.a $(LDLIBS)
$(BUILD)/tests/bench/load: $(call objs,tests/bench/load/*.c)
$(BUILD)/tests/fake/modelsim $(BUILD)/tests/unit/test_modelsim: $(call objs,tests/fake/sim/*.c)
$(BUILD)/obj/tests/unit/test_modelsim.o: CPPFLAGS += -Itests/fake
$(BUILD)/tests/unit/test_genkit: $(call objs,api/wire/genkit_frame.c api/wire/genkit_input.c)
$(BUILD)/obj/tests/unit/test_genkit.o: CPPFLAGS += -Iapi
$(BUILD)/tests/unit/test_openai: $(call objs,worker/model/openai.c worker/model/answer.c worker/model/halves.c worker/model/shape.c)
$(BUILD)/obj/tests/unit/test_openai.o: CPPFLAGS += -Iworker
$(BUILD)/tests/unit/test_watermark: $(call objs,worker/watermark.c)
$(BUILD)/obj/tests/unit/test_watermark.o: CPPFLAGS += -Iworker
# No sanitizers: it looks at millions of states.
$(BUILD)/tests/model: $(wildcard tests/model/*.c) tests/model/model.h
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -g $(WARN) -o $@ $(filter %.c,$^)
units: $(UNITS)
fakes: $(FAKES)
benches: $(BENCHES)

test: packages ## lint + unit + system tests on the sanitizer build
	@tests/run.sh
unit: ## the unit tests alone
	@tests/run.sh unit
system: ## the system tests alone
	@tests/run.sh system
fault: all fakes ## the whole fault matrix on the release build: half an hour, writes tests/fault/README.md
	@BUILD=$(abspath $(BUILD)) tests/fault/run.py
modes: ## all system tests without hints, and through PgBouncer
	@tests/run.sh modes
model: $(BUILD)/tests/model ## look at every state of the claim protocol: minutes
	$(BUILD)/tests/model all
soak: all fakes ## random faults for MINUTES=60 on the release build
	@BUILD=$(abspath $(BUILD)) tests/fault/soak.py --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))
lint: ## layering, banned functions
	@tests/lint.sh
format: ## clang-format everything
	clang-format -i $(SOURCES)
tidy: $(GEN) ## clang-tidy
	clang-tidy --quiet $(filter %.c,$(SOURCES)) -- $(CPPFLAGS) -std=gnu11 -DLLHTTP_STRICT_MODE=1 -idirafter $(LLHTTP_INC) -Iapi -Iworker -Ischeduler -Itests/fake
san: ## the four programs under ASan + UBSan, into build/san
	$(MAKE) SAN=1 BUILD=build/san all
demo: packages ## one detached turn before your eyes, and one aborted
	@$(MAKE) --no-print-directory all fakes
	@tests/demo.sh
dev: all ## run everything in this terminal with the agents of examples/agents
	$(BUILD)/bin/nocturne dev --agents examples/agents
bench: deps all fakes benches ## measure beside the peers; QUICK=1 in 3 minutes
	@docker/deps.sh redis-tools; command -v npm >/dev/null || docker/deps.sh nodejs npm
	@BUILD=$(abspath $(BUILD)) tests/bench/run $(if $(QUICK),--quick)
install: all ## install the programs into PREFIX/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
clean: ## remove build/
	rm -rf build

.SECONDARY:
.PHONY: help packages deps all units fakes benches test unit system modes fault lint format tidy san demo dev bench install clean
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
