# SPDX-License-Identifier: MIT-0
# `make` builds the shim, `sudo make test` proves it, `sudo make bench` measures it; CONTRIBUTING.md tells the rest.

CC       ?= cc
CFLAGS   ?= -O3 -g
WARNINGS := -Wall -Wextra -Wshadow -Wconversion
SOURCES  := $(sort $(wildcard native/*.c))
HEADERS  := $(sort $(wildcard native/*.h))
SHIM     := native/gwlbtun.so
VENV     := .venv
TOOLS    := build/tools

# gwlbtun/shim.py computes the same digest of the same files, in the same order, to tell a stale object.  So does the
# rule for the object: it goes by the digest that the object holds, as file times do not survive a copy.
BUILD_ID := $(shell cat $(sort $(SOURCES) $(HEADERS)) | sha256sum | cut -d' ' -f1)
STALE    := $(shell grep -qs $(BUILD_ID) $(SHIM) || echo FORCE)

# What the compiler and the linker can do against a mistake in C.  _FORTIFY_SOURCE needs an optimizer, and sanitizers see
# more without it; 2 is the most that gcc 11 knows.
OPTIMIZED  = $(filter-out -O0,$(lastword $(filter -O%,$(CFLAGS))))
FORTIFIED  = $(if $(findstring -fsanitize,$(CFLAGS))$(findstring _FORTIFY_SOURCE,$(CFLAGS)),,\
               $(if $(OPTIMIZED),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2))
HARDENING  = -fstack-protector-strong $(FORTIFIED)
LINK_FLAGS = -Wl,-z,relro,-z,now,-z,noexecstack

SHIM_FLAGS = -std=gnu11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread $(WARNINGS) \
             -DGW_BUILD_ID='"$(BUILD_ID)"' $(HARDENING) $(CFLAGS)

# The system's pytest where there is one, else one in a virtual environment of the project's own.
PYTEST = $(if $(shell python3 -c 'import pytest' 2>/dev/null && echo yes),python3,$(VENV)/bin/python3) -m pytest

all: $(SHIM)

# Written beside and moved into place, so that a daemon that has the old object mapped goes on undisturbed.
$(SHIM): $(STALE) Makefile
	@command -v $(firstword $(CC)) >/dev/null || \
	  { echo "There is no C compiler $(firstword $(CC)): $$(tools/packages.sh command run)" >&2; exit 1; }
	$(CC) $(SHIM_FLAGS) -shared -o $@.new $(SOURCES) $(LINK_FLAGS) $(LDFLAGS)
	mv -f $@.new $@

test: packages $(SHIM) pytest
	$(PYTEST) $(TESTS)

packages:
	@tools/packages.sh install run test

pytest:
	@python3 -c 'import pytest' 2>/dev/null || test -x $(VENV)/bin/pytest || \
	  { python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet pytest; }

# The daemon itself, with traffic, under each sanitizer: in a copy of the project, whose shim is built for it.  What one
# finds makes the daemon end with a status that the tests do not take.  Python's own leaks are not ours to mend.
SANITIZED_TESTS ?= $(patsubst %,tests/daemon/test_%.py,path malformed endpoints relief)

sanitize: packages $(SHIM) pytest
	$(MAKE) --no-print-directory sanitize-with SANITIZER=thread RUNTIME=libtsan.so
	$(MAKE) --no-print-directory sanitize-with SANITIZER=address,undefined RUNTIME=libasan.so

sanitize-with:
	mkdir -p build/$(SANITIZER)
	cp -r Makefile gwlbtun.py gwlbtun native build/$(SANITIZER)
	$(MAKE) --no-print-directory -B -C build/$(SANITIZER) CC=gcc \
	  CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZER) -fno-sanitize-recover=all"
	ASAN_OPTIONS=detect_leaks=0 GWLBTUN_SANITIZER=$$(gcc -print-file-name=$(RUNTIME)) \
	  GWLBTUN_PROGRAM=$(CURDIR)/build/$(SANITIZER)/gwlbtun.py $(PYTEST) $(SANITIZED_TESTS)

# The tests that need neither root nor network namespaces, in seconds.
check: $(SHIM) $(TOOLS)/ready
	$(TOOLS)/bin/python3 -m pytest tests/unit tests/native

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
C_FILES      = $(shell find native bench -name '*.c')
STYLED_FILES = $(shell find native bench -name '*.[ch]')

lint: lint-rooms lint-python lint-types lint-shell lint-c lint-style

lint-rooms:
	python3 tools/check_rooms.py

lint-python: $(TOOLS)/ready
	$(TOOLS)/bin/ruff check --quiet $(PYTHON_FILES)
	$(TOOLS)/bin/vermin --quiet --no-tips --target=3.9- --violations $(PYTHON_FILES)

lint-types: $(TOOLS)/ready
	$(TOOLS)/bin/mypy gwlbtun tools

lint-shell: $(TOOLS)/ready
	tools/check_shell.sh $(TOOLS)/bin/shellcheck

lint-c: lint-packages
	clang-tidy --quiet $(C_FILES) -- -std=gnu11 -D_GNU_SOURCE -DGW_BUILD_ID='""'

lint-style: lint-packages
	clang-format --dry-run --Werror $(STYLED_FILES)

format: lint-packages
	clang-format -i $(STYLED_FILES)

lint-packages:
	@tools/packages.sh install lint

$(TOOLS)/ready: tools/requirements.txt
	python3 -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet -r $<
	touch $@

bench: $(SHIM)
	python3 bench/run.py $(BENCH)

clean:
	rm -rf $(SHIM) $(SHIM).new build

.PHONY: all test packages pytest sanitize sanitize-with check coverage bench clean format FORCE \
        lint lint-rooms lint-python lint-types lint-shell lint-c lint-style lint-packages
