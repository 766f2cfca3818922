# SPDX-License-Identifier: MIT-0
# `make` builds the shim, `sudo make test` proves it, `sudo make bench` measures it.

CC       ?= cc
CFLAGS   ?= -O3 -g
WARNINGS := -Wall -Wextra -Wshadow -Wconversion
SOURCES  := $(sort $(wildcard native/*.c))
HEADERS  := $(sort $(wildcard native/*.h))
SHIM     := native/gwlbtun.so
VENV     := .venv

# gwlbtun/fastpath.py computes the same digest of the same files, in the same order, to tell a stale object.  So does the
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
	$(CC) $(SHIM_FLAGS) -shared -o $@.new $(SOURCES) $(LINK_FLAGS) $(LDFLAGS)
	mv -f $@.new $@

test: $(SHIM) pytest
	$(PYTEST) $(TESTS)

pytest:
	@python3 -c 'import pytest' 2>/dev/null || test -x $(VENV)/bin/pytest || \
	  { python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet pytest; }

# The daemon itself, with traffic, under each sanitizer: in a copy of the project, whose shim is built for it.  What one
# finds makes the daemon end with a status that the tests do not take.  Python's own leaks are not ours to mend.
SANITIZED_TESTS ?= tests/test_path.py tests/test_malformed.py tests/test_endpoints.py tests/test_relief.py

sanitize: $(SHIM) pytest
	$(MAKE) --no-print-directory sanitize-with SANITIZER=thread RUNTIME=libtsan.so
	$(MAKE) --no-print-directory sanitize-with SANITIZER=address,undefined RUNTIME=libasan.so

sanitize-with:
	mkdir -p build/$(SANITIZER)
	cp -r Makefile gwlbtun.py gwlbtun native build/$(SANITIZER)
	$(MAKE) --no-print-directory -B -C build/$(SANITIZER) CC=gcc \
	  CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZER) -fno-sanitize-recover=all"
	ASAN_OPTIONS=detect_leaks=0 GWLBTUN_SANITIZER=$$(gcc -print-file-name=$(RUNTIME)) \
	  GWLBTUN_PROGRAM=$(CURDIR)/build/$(SANITIZER)/gwlbtun.py $(PYTEST) $(SANITIZED_TESTS)

bench: $(SHIM)
	python3 bench/run.py $(BENCH)

clean:
	rm -rf $(SHIM) $(SHIM).new build

.PHONY: all test pytest sanitize sanitize-with bench clean FORCE
