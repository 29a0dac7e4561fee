# SPDX-License-Identifier: GPL-2.0-or-later
#
# The front door. Everything is made below build/.

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help build run check check-vm rig-shell bench docs export install uninstall deb clean distclean

export QEMU_SRC QEMU_DL_DIR KERNEL_SRC ACCEL JOBS SUITE CHECK_VM CONVERSIONS REPEATS QUICK
export AUTHOR DESTDIR PREFIX
# FULL and QEMU_CONFIGURE are not in this list: given as nothing is not the same
# as not given, and what is given goes to the environment by itself.

# It finds the modules of tests/ and scripts/.
PYTHON = scripts/build-qemu.sh env /usr/bin/python3

help:
	@echo "make build      fetch QEMU, apply patches/, add our files, compile"
	@echo "make run        show a guest that converts memory while a device does DMA"
	@echo "make check      run all tests that do not need a kernel of their own"
	@echo "                (SUITE=unit, qtest, vfio-user, guest, tools, libvirt,"
	@echo "                build, docs, style or sanitizers: only these)"
	@echo "make check-vm   run the tests on a kernel of their own (TESTS='amd guest':"
	@echo "                only those with both words in their names; QUICK=1:"
	@echo "                one scenario of each kind; CHECK_VM=skip: run nothing)"
	@echo "make rig-shell  give a prompt in the kernel of check-vm (CONFIG=intel, amd,"
	@echo "                in-place, flat, staged, log or log-amd; GDB=1: it waits"
	@echo "                for gdb)"
	@echo "make bench      measure, and compare with QEMU's own code (BENCH='map"
	@echo "                threads': only these groups; REPEATS=N: N times each, 5 if"
	@echo "                not given; CHECK_VM=skip: without the kernel of check-vm)"
	@echo "make docs       write the documentation as HTML to build/docs"
	@echo "make export     write a patch series against QEMU to build/export"
	@echo "                (AUTHOR='NAME <MAIL>' signs)"
	@echo "make install    install QEMU as qemu-system-x86_64-guest-memfd, gmem-top,"
	@echo "                gmem-xml, man pages and bash completion, as they were built"
	@echo "                (PREFIX=/usr/local, DESTDIR=); make uninstall removes them"
	@echo "make deb        write a Debian package of the same to build/deb, for the"
	@echo "                release of this host (AUTHOR='NAME <MAIL>' maintains it)"
	@echo "make clean      remove what was built; keep what was downloaded"
	@echo "make distclean  remove build/ altogether"
	@echo
	@echo "QEMU_SRC=DIR    build with your own QEMU tree of the same release"
	@echo "KERNEL_SRC=DIR  build the kernel of check-vm from your own Linux 7.3 tree"
	@echo "CONVERSIONS=N   random conversions in place of check-vm: so many of small pages,"
	@echo "                and as many of huge ones (100000)"
	@echo "QEMU_DL_DIR=DIR keep downloads there instead of build/dl"
	@echo "ACCEL=kvm|tcg   accelerator of make run"
	@echo "JOBS=N          compile N files at a time"
	@echo "SKIP_PACKAGES=1 install no packages"
	@echo "FULL=1          build all features that Debian's QEMU has (0: only what a"
	@echo "                server needs); QEMU_CONFIGURE='OPTION...' gives options to"
	@echo "                QEMU's configure; both count for later calls of make, too"

build:
	@scripts/build-qemu.sh build

run: build
	@$(PYTHON) scripts/demo.py

check: build
	@$(PYTHON) scripts/run-checks.py $(if $(SUITE),--suite $(SUITE))

check-vm: build
	@$(PYTHON) -m rig $(TESTS)

rig-shell: build
	@$(PYTHON) -m rig.shell \
		$(CONFIG) $(if $(GDB),--gdb)

bench: build
	@$(PYTHON) scripts/bench.py $(BENCH)

docs:
	@scripts/build-qemu.sh prepare
	@scripts/build-docs.sh build/docs
	@echo "the documentation begins at build/docs/index.html"

export:
	@scripts/build-qemu.sh prepare
	@/usr/bin/python3 scripts/export-series.py

# Not after "build": root installs what a user has built.
install uninstall:
	@scripts/install.sh $@

deb: build
	@scripts/build-deb.sh build/deb

clean:
	@scripts/clean.sh

distclean:
	@rm -rf build
