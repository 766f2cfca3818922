# SPDX-License-Identifier: MIT-0
# `make` builds the shim, `sudo make test` proves it, `sudo make bench` measures it; CONTRIBUTING.md tells the rest.

CC       ?= cc
CFLAGS   ?= -O3 -g
WARNINGS := -Wall -Wextra -Wshadow -Wconversion
SOURCES  := $(sort $(wildcard native/*.c))
HEADERS  := $(sort $(wildcard native/*.h) native/bpf/layout.h)

# The other machine, if CC builds for one. What is built for it has its name, beside what is built for this one.
MACHINE := $(filter-out $(shell uname -m),$(filter x86_64 aarch64,$(firstword $(subst -, ,$(shell { $(CC) -dumpmachine; } 2>/dev/null)))))
SHIM     := $(if $(MACHINE),build/$(MACHINE)/gwlbtun.so,native/gwlbtun.so)
ONEFILE  := dist/gwlbtun$(MACHINE:%=-%)

VENV     := .venv
TOOLS    := build/tools

# gwlbtun/shim.py computes the same digest of the same files, in the same order, to tell a stale object.  So does the
# rule for the object: it goes by the digest that the object holds, as file times do not survive a copy.
BUILD_ID := $(shell cat $(sort $(SOURCES) $(HEADERS)) | sha256sum | cut -d' ' -f1)
STALE    := $(shell grep -qs $(BUILD_ID) $(SHIM) || echo FORCE)

# Nothing in the object tells where it was built, so that it is the same wherever that is.
PLACELESS = -ffile-prefix-map=$(CURDIR)=.

# What the compiler and the linker can do against a mistake in C.  _FORTIFY_SOURCE needs an optimizer, and sanitizers see
# more without it; 2 is the most that gcc 11 knows.
OPTIMIZED  = $(filter-out -O0,$(lastword $(filter -O%,$(CFLAGS))))
FORTIFIED  = $(if $(findstring -fsanitize,$(CFLAGS))$(findstring _FORTIFY_SOURCE,$(CFLAGS)),,\
               $(if $(OPTIMIZED),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2))
HARDENING  = -fstack-protector-strong $(FORTIFIED)
LINK_FLAGS = -Wl,-z,relro,-z,now,-z,noexecstack

SHIM_FLAGS = -std=gnu11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread $(WARNINGS) \
             -DGW_BUILD_ID='"$(BUILD_ID)"' $(HARDENING) $(PLACELESS) $(CFLAGS)

# The system's pytest and what else the tests import where there is all of it, else a virtual environment of the project's own.
TEST_IMPORTS := import prometheus_client, pytest
PYTEST = $(if $(shell python3 -c '$(TEST_IMPORTS)' 2>/dev/null && echo yes),python3,$(VENV)/bin/python3) -m pytest

all: $(SHIM)

# Written beside and moved into place, so that a daemon that has the old object mapped goes on undisturbed.
$(SHIM): $(STALE) Makefile
	@command -v $(firstword $(CC)) >/dev/null || \
	  { echo "There is no C compiler $(firstword $(CC)): $$(tools/packages.sh command run)" >&2; exit 1; }
	@mkdir -p $(@D)
	$(CC) $(SHIM_FLAGS) -shared -o $@.new $(SOURCES) $(LINK_FLAGS) $(LDFLAGS)
	mv -f $@.new $@
	@! test -x tools/old_units.sh || tools/old_units.sh $(CURDIR)

# The programs in the kernel (native/bpf/), which are committed as clang 14 makes them: who builds the rest needs no clang.
BPF_CC       ?= clang-14
BPF_FLAGS    := -O2 -target bpf -mcpu=v2 $(WARNINGS) -fno-ident -fno-asynchronous-unwind-tables
BPF_PROGRAMS ?= gwlbtun/kernel/programs.txt
BPF_BUILD    ?= build/bpf

bpf:
	@mkdir -p $(BPF_BUILD)
	$(BPF_CC) $(BPF_FLAGS) $(BPF_WERROR) -c native/bpf/ingress.c -o $(BPF_BUILD)/ingress.o
	$(BPF_CC) $(BPF_FLAGS) $(BPF_WERROR) -c native/bpf/egress.c -o $(BPF_BUILD)/egress.o
	$(BPF_CC) $(BPF_FLAGS) $(BPF_WERROR) -DGW_LINK=14u -c native/bpf/egress.c -o $(BPF_BUILD)/egress_probe.o
	tools/bpf_programs.py $(foreach name,ingress egress egress_probe,$(name)=$(BPF_BUILD)/$(name).o) >$(BPF_PROGRAMS).new
	mv -f $(BPF_PROGRAMS).new $(BPF_PROGRAMS)

# Those of bench/bpf/, for the bench alone.
path-floor:
	@mkdir -p $(BPF_BUILD)
	$(BPF_CC) $(BPF_FLAGS) -c bench/bpf/ingress.c -o $(BPF_BUILD)/floor_in.o
	$(BPF_CC) $(BPF_FLAGS) -c bench/bpf/egress.c -o $(BPF_BUILD)/floor_out.o
	tools/bpf_programs.py $(foreach name,floor_in floor_out,$(name)=$(BPF_BUILD)/$(name).o) >$(BPF_BUILD)/path_floor.txt

# The program in one file, without what only a debugger reads. The shim's debug information stays in the clone.
STRIP ?= $(MACHINE:%=%-linux-gnu-)strip

dist: $(SHIM)
	@mkdir -p build
	$(STRIP) -o $(SHIM:native/%=build/%).stripped $(SHIM)
	python3 tools/onefile.py $(SHIM:native/%=build/%).stripped $(ONEFILE)

# The same for arm64, on a host that need not be one, and what can be run of it without one, by qemu-user.
ARM64_CC := aarch64-linux-gnu-gcc

arm64: $(SHIM)
	@tools/packages.sh install run arm64
	$(MAKE) --no-print-directory dist CC=$(ARM64_CC) CFLAGS="$(CFLAGS) -Werror"
	$(MAKE) --no-print-directory -C tests/native CC=$(ARM64_CC) CFLAGS=-O2 OUT=../../build/aarch64/programs
	$(MAKE) --no-print-directory -C tests/native CFLAGS=-O2 OUT=../../build/programs/host shim
	tools/check_arm64.sh

# The manual page and bash's completion, of the options as they are.
manual:
	@mkdir -p build
	tools/reference.py man packaging/gwlbtun.8.in >build/gwlbtun.8
	tools/reference.py bash >build/gwlbtun.bash

# DESTDIR stands for /, for who makes packages.
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc

install uninstall: export PREFIX := $(PREFIX)
install uninstall: export SYSCONFDIR := $(SYSCONFDIR)
install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export ONEFILE := $(ONEFILE)

install: dist manual
	@tools/install.sh install
	@tools/old_units.sh $(CURDIR)

uninstall:
	@tools/install.sh uninstall

# Of the systems that tools/packages.sh knows, Debian alone has packages of Chromium, mandoc and promtool.
HERE := $(if $(shell command -v apt-get),,-m "not debian")

test: packages $(SHIM) pytest
	$(PYTEST) $(HERE) --processes=5 $(TESTS)

# Those that depend on the kernel, on other kernels, in qemu: KERNELS="6.1 newest", as Debian's archive has them.
KERNELS      ?= 5.10 6.1 6.12 newest
KERNEL_TESTS ?= $(patsubst %,tests/kernel/test_%.py,programs attach kernel_path stacked_uplinks) tests/daemon/test_tun.py

test-kernels: packages $(SHIM) pytest
	@tools/packages.sh install kernels
	$(firstword $(PYTEST)) tools/kernels.py "$(KERNELS)" -m "not alone" $(KERNEL_TESTS)

packages:
	@tools/packages.sh install run test

pytest:
	@python3 -c '$(TEST_IMPORTS)' 2>/dev/null || $(VENV)/bin/python3 -c '$(TEST_IMPORTS)' 2>/dev/null || \
	  { python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet -r tools/test-requirements.txt; }

# The daemon itself, with traffic, under each sanitizer: in a copy of the project, whose shim is built for it.  Tests and daemon
# run by a Python that loads the sanitizer's library.  What one finds makes a process end with a status that the tests do not
# take.  Python's own leaks are not ours to mend.  Threads carry all, but in the tests of the path in the kernel.
SANITIZED_TESTS ?= $(patsubst %,tests/daemon/test_%.py,soak path malformed endpoints relief idle show) tests/kernel/test_kernel_flows.py

sanitize: packages $(SHIM) pytest
	$(MAKE) --no-print-directory -j2 -O sanitize-thread sanitize-address

# Every test but those of Python alone, with the path in the kernel and without, in an hour or more.
sanitize-all:
	$(MAKE) --no-print-directory sanitize KERNEL_PATH="off auto" SANITIZED_TESTS="tests/daemon tests/kernel tests/native tests/scripts"

sanitize-thread:
	$(MAKE) --no-print-directory sanitize-with SANITIZER=thread RUNTIME=libtsan.so

sanitize-address:
	$(MAKE) --no-print-directory sanitize-with SANITIZER=address,undefined RUNTIME=libasan.so

sanitize-with:
	rm -rf build/$(SANITIZER) && mkdir -p build/$(SANITIZER)
	tar -cf - --exclude=./build --exclude=./dist --exclude=./.git --exclude=./$(VENV) . | tar -xf - -C build/$(SANITIZER)
	$(MAKE) --no-print-directory -B -C build/$(SANITIZER) CC=gcc \
	  CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZER) -fno-sanitize-recover=all"
	tools/sanitized_python.sh $(firstword $(PYTEST)) $(RUNTIME) $(CURDIR)/build/$(SANITIZER)/python
	cd build/$(SANITIZER) && PATH=$$PWD/python/bin:$$PATH GWLBTUN_SANITIZED=1 TAKEOVER_RATE=1000 \
	  KERNEL_PATH="$(or $(KERNEL_PATH),off)" \
	  python3 -m pytest --processes=2 -m "not costs and not unsanitized$(if $(HERE), and not debian)" $(SANITIZED_TESTS)

# What the network and TUN may hand to the parsers, made up for TIME seconds.
fuzz: TIME ?= 60
fuzz: packages
	tools/fuzz.py $(TIME)

# The daemon under mixed traffic, churn and faults for TIME seconds: nothing may grow, and no packet be missing.
soak: TIME ?= 600
soak: packages $(SHIM)
	tests/soak.py $(TIME)

# The tests that need neither root nor network namespaces, in seconds.
check: $(SHIM) $(TOOLS)/ready
	$(TOOLS)/bin/python3 -m pytest $(HERE) tests/unit tests/native

# What the tests do not reach. The project is copied and built to count the lines that run, in C and in Python, also in the
# daemons that the tests start; their Python is told to count by a file in the tools' environment.
COVERAGE_TESTS ?= tests

coverage: packages $(TOOLS)/ready
	rm -rf build/coverage && mkdir -p build/coverage
	tar -cf - --exclude=./build --exclude=./.git --exclude=./$(VENV) . | tar -xf - -C build/coverage
	$(MAKE) --no-print-directory -B -C build/coverage CC=gcc CFLAGS="-O1 -g --coverage -fprofile-update=atomic"
	echo 'import coverage; coverage.process_startup()' >$$(echo $(TOOLS)/lib/python3*/site-packages)/coverage_startup.pth
	cd build/coverage && COVERAGE_FILE=$$PWD/.coverage COVERAGE_PROCESS_START=$$PWD/pyproject.toml \
	  $(CURDIR)/$(TOOLS)/bin/python3 -m pytest $(COVERAGE_TESTS); echo $$? >status
	cd build/coverage && $(CURDIR)/$(TOOLS)/bin/coverage combine -q && $(CURDIR)/$(TOOLS)/bin/coverage report
	cd build/coverage && gcov -n native/*.gcda | sed -n "/^File 'native/{N; s/File '\(.*\)'\nLines executed:/\1  /p}"
	exit $$(cat build/coverage/status)

# Each of these says all that it finds; `make -k lint` goes on to the next.
PYTHON_FILES := gwlbtun.py gwlbtun tests bench tools
C_FILES      = $(shell find native bench -name '*.c' -not -path '*/bpf/*')
STYLED_FILES = $(shell find native bench -name '*.[ch]')

lint: lint-rooms lint-python lint-types lint-shell lint-cloud lint-c lint-style lint-bpf

lint-rooms:
	python3 tools/check_rooms.py

lint-python: $(TOOLS)/ready
	$(TOOLS)/bin/ruff check --quiet $(PYTHON_FILES)
	$(TOOLS)/bin/vermin --quiet --no-tips --target=3.9- --violations $(PYTHON_FILES)

lint-types: $(TOOLS)/ready
	$(TOOLS)/bin/mypy gwlbtun tools

lint-shell: $(TOOLS)/ready
	tools/check_shell.sh $(TOOLS)/bin/shellcheck

lint-cloud: $(TOOLS)/ready
	$(TOOLS)/bin/cfn-lint example-scripts/gwlbtun.yaml
	$(TOOLS)/bin/kubernetes-validate --strict --quiet packaging/kubernetes/*.yaml

lint-c: lint-packages
	clang-tidy --quiet $(C_FILES) -- -std=gnu11 -D_GNU_SOURCE -DGW_BUILD_ID='""'

lint-style: lint-packages
	clang-format --dry-run --Werror $(STYLED_FILES)

# The committed programs are what clang 14 makes of their sources; another release makes others of them.
lint-bpf: lint-packages
	@command -v $(BPF_CC) >/dev/null || { echo "There is no $(BPF_CC): the programs in the kernel are not compared."; exit 0; }; \
	  $(MAKE) --no-print-directory bpf BPF_PROGRAMS=build/bpf/programs.txt BPF_WERROR=-Werror && \
	  diff -u gwlbtun/kernel/programs.txt build/bpf/programs.txt

format: lint-packages
	clang-format -i $(STYLED_FILES)

lint-packages:
	@tools/packages.sh install lint

$(TOOLS)/ready: tools/requirements.txt tools/test-requirements.txt
	python3 -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet -r $<
	touch $@

# The pictures of the page at /status that the documents show.
screenshots: $(SHIM)
	python3 tools/screenshots.py

bench: $(SHIM)
	python3 bench/run.py $(BENCH)

clean:
	rm -rf $(SHIM) $(SHIM).new build dist

.PHONY: all bpf dist arm64 manual install uninstall test test-kernels packages pytest sanitize sanitize-all sanitize-thread sanitize-address sanitize-with \
        fuzz soak check coverage screenshots bench path-floor clean format FORCE \
        lint lint-rooms lint-python lint-types lint-shell lint-cloud lint-c lint-style lint-bpf lint-packages
