# SPDX-License-Identifier: GPL-2.0
# wfs: the module (wfs.ko), the server (build/server/wfsd), mount.wfs (build/tools).
#
#	make				module, server, tools, man pages
#	make install modules_install	put them into the system (DESTDIR=, PREFIX=, KDIR=)
#	make check			all tests, in a guest (T="read write": only these)
#	make check-debug		the suite under KASAN, lockdep, kmemleak and injected failures (slow; T= too)
#	make soak			kill -9 of the server, 1,000 times under a load (WFS_KILLS=)
#	make check-movers		the suite with a server of each --mover but the default (MOVERS="splice uring": of these)
#	make check-all			check, then the part of check-debug that fits CI's time
#	make coverage			which lines of the module the last check-debug reached
#	make fuzz			fuzz the parsers of both sides, FUZZ_SECONDS=600 in all
#	make demo			mount in a guest, measure, print a table
#	make sparse			sparse and W=1 over the module
#	make deps			install the Debian packages that all this needs
#	make clean

PREFIX	?= /usr/local
CFLAGS	?= -O2 -g

# The module is for the running kernel, or, where that one has no build tree
# (a container, a test machine), for Debian's cloud kernel, which guests run.
cloud_kdir = $(shell ls -d /lib/modules/*6.12*-cloud-amd64/build 2>/dev/null | sort -V | tail -n 1)
ifeq ($(origin KDIR), undefined)
KDIR	:= $(firstword $(wildcard /lib/modules/$(shell uname -r)/build) $(cloud_kdir))
endif

MAN	:= $(patsubst Documentation/%.rst,build/man/%,$(wildcard Documentation/*.8.rst))
JOBS	:= -j$(shell nproc)

all: module server tools man

module:
	@test -d "$(KDIR)" || { echo "no kernel to build for: run make deps, or give KDIR=" >&2; exit 1; }
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

server:
	$(MAKE) -C server OUT=../build/server

# Server and mount.wfs as their own tests run them.
san: build/tools-san/mount.wfs
	$(MAKE) -C server SAN=1 OUT=../build/server-san

tools: build/tools/mount.wfs build/tools/bench-load

tests:
	$(MAKE) -C selftests OUT=../build/selftests

man: $(MAN)

build/tools/%: tools/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -std=gnu11 -Wall -Wextra -D_GNU_SOURCE $(LDFLAGS) -o $@ $<

build/tools-san/%: tools/%.c
	@mkdir -p $(@D)
	$(CC) -g -O1 -std=gnu11 -Wall -Wextra -D_GNU_SOURCE -fsanitize=address,undefined \
		-fno-sanitize-recover=undefined -o $@ $<

build/man/%: Documentation/%.rst
	@mkdir -p $(@D)
	rst2man $< $@

install: server tools man
	$(MAKE) -C server OUT=../build/server install
	install -D -m 755 build/tools/mount.wfs $(DESTDIR)/sbin/mount.wfs
	install -d $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 $(MAN) $(DESTDIR)$(PREFIX)/share/man/man8

modules_install: module
	$(MAKE) -C $(KDIR) M=$(CURDIR) INSTALL_MOD_PATH=$(DESTDIR) modules_install

# In a copy, because both look only at what they compile, and all has to be compiled.
sparse: KDIR := $(or $(cloud_kdir),$(KDIR))
sparse:
	@rm -rf build/sparse && mkdir -p build/sparse/kmod
	@cp Kbuild build/sparse && cp kmod/*.[ch] build/sparse/kmod
	@$(MAKE) -s $(JOBS) --no-print-directory -C $(KDIR) M=$(CURDIR)/build/sparse \
		C=2 CF=-D__CHECK_ENDIAN__ W=1 modules >build/sparse.log 2>&1 || { cat build/sparse.log; exit 1; }
	@cat build/sparse.log; ! test -s build/sparse.log
	@rm -rf build/sparse

deps:
	tools/setup

# What a guest runs is built for the guest's kernel, whatever this machine's is.
guest-build:
	$(MAKE) $(JOBS) all tests san $(if $(filter file,$(origin KDIR)),KDIR=$(cloud_kdir))

check: deps
	tools/check $(T)

# The module as the debug kernel takes it, in a copy: its objects are not those of the other kernel.
debug-build: guest-build
	tools/debug-kernel
	@mkdir -p build/debug/kmod
	@cp -pu Kbuild build/debug && cp -pu kmod/*.[ch] build/debug/kmod
	$(MAKE) $(JOBS) -C build/debug-kernel/build M=$(CURDIR)/build/debug GCOV_PROFILE=y modules

# A thousand kills: so many on each of two file systems.
WFS_KILLS ?= 500
soak: deps guest-build
	tools/vm --mem 5G --timeout 21600 -- env WFS_KILLS=$(WFS_KILLS) WFS_SOAK=1 WFS_TIMEOUT=14000 \
		selftests/run kill9 network memcg model mounts24 survival clients

check-debug: deps
	tools/check --debug $(T)

MOVERS ?= splice read mmap uring
check-movers: deps guest-build
	failed=; for mover in $(MOVERS); do \
		export WFS_MOVER=$$mover WFS_OUT=$(CURDIR)/build/vm/$$mover; rm -rf $$WFS_OUT; mkdir -p $$WFS_OUT; \
		selftests/run --host server_test && tools/vm --mem 5G --timeout 10800 --out $$WFS_OUT \
			--log $$WFS_OUT/console.log -- env WFS_MOVER=$$mover WFS_OUT=/out selftests/run $(T) || failed="$$failed $$mover"; \
	done; test -z "$$failed" || { echo "failed with --mover$$failed" >&2; exit 1; }

check-all: deps
	tools/check --all

coverage:
	tools/coverage

FUZZ_SECONDS ?= 600
fuzz: deps
	selftests/fuzz/run $(FUZZ_SECONDS)

demo: deps
	$(MAKE) -s guest-build
	tools/vm --timeout 900 -- tools/demo

bench: deps
	tools/bench $(if $(QUICK),--quick)

clean:
	rm -rf build .tmp_versions selftests/__pycache__
	rm -f wfs.ko wfs.o wfs.mod wfs.mod.[co] modules.order Module.symvers .*.cmd .*.o
	rm -f kmod/*.o kmod/*.mod kmod/.*.cmd kmod/.*.d

.PHONY: soak check-movers all module server san tools tests man install modules_install sparse deps guest-build check debug-build check-debug check-all \
	coverage fuzz demo bench clean
