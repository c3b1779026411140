# What people type. Each target calls a script in scripts/ or cargo; the scripts say at their top what they do and own.
# Owns nothing itself. Variables given to make (`make run SMP=8`) or in the environment reach the scripts as they are.

.DEFAULT_GOAL := help
TARGETS := help setup build run guest gdb map kexec kdump trace debian debian-dump drill soak test test-all lint check docs dist bench clean clean-all
# The labs of the book (docs/labs).
LABS := $(addprefix lab-,1 2 3 4 5 6 7 8 9 10 11)
TARGETS += $(LABS)
.PHONY: $(TARGETS)

# `make run RUN=echo hi` asks for two targets. Better said before the first has run.
$(foreach goal,$(filter-out $(TARGETS),$(MAKECMDGOALS)),$(error there is no target '$(goal)'; if it belongs to a variable, quote that: make run RUN='echo hi'. Targets: $(TARGETS)))

# make would expand a `$` in a variable's value before it exports it: RUN='echo $HOME' would lose its H.
VARIABLES := $(shell grep -v '^\#' '$(CURDIR)/scripts/variables')
# What make was given by name, so that a misspelt one is told.
GIVEN := $(strip $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))
$(foreach v,$(VARIABLES),$(if $(filter-out undefined,$(origin $v)),$(eval override export $v := $$(value $v))))

# Every artefact has its documented place below target/ (scripts/lib.sh).
export CARGO_TARGET_DIR := $(CURDIR)/target

# The harness runs QEMUs in parallel; each has several threads of its own.
TEST_ARGS := --test-threads=2

help:
	@echo 'The first of these installs and fetches what it needs, and builds: minutes. docs/running.md has all variables.'
	@echo
	@echo 'make run       boot Debian Linux under Exeunt on QEMU; a shell on this terminal (10 s)'
	@echo "make run RUN='COMMAND'   run a shell command in the guest, show its output, power off (scripts/run returns its status)"
	@echo '    SMP=4 MEM=1G CPU=cortex-a57 GIC=3 KERNEL=VERSION|RELEASE|FILE (6.12, 7.2-rt, testing, ../linux/arch/arm64/boot/Image)'
	@echo '    INITRD=FILE APPEND=... EXEUNT=...'
	@echo "    DISK=IMAGE (the guest writes into it; SNAPSHOT=1: not) NET=1|PORT (ssh, by the printed command) SHARE=DIRECTORY"
	@echo '    MODULES=DIRECTORY (of your own kernel) REBOOT=1 (a reset starts the machine again, without a terminal too)'
	@echo '    PROFILE=release|debug TIMEOUT=SECONDS OVERLAY=DIRECTORY QEMU=... QEMU_EXTRA=... HYPERVISOR=none FIRMWARE=tf-a'
	@echo 'make guest EXAMPLE=hello   build a program of examples/, and run it in the place of Linux (10 s)'
	@echo 'make lab-1     a lab of the book with what you have written: solved, or what it saw instead (10 s; docs/labs/start.md)'
	@echo 'make gdb       the same machine, stopped at Exeunt'"'"'s entry, in gdb, with commands that say what EL2 does (seconds; docs/gdb.md):'
	@echo '    GDB_ARGS=... SYMBOLS=1|VMLINUX (1: 320 MB to fetch)'
	@echo 'make map       boot Linux, and draw its stage 2 out of the tables in memory: text, and a page for a browser (30 s)'
	@echo 'make kexec     boot Linux, kexec the next one, and say what became of EL2 (1 min): ENTRY=el2|el1 POLICY=leave|resident FROM=CPU'
	@echo 'make kdump     boot Linux, let it die, get the dump out and open it (half a minute): the same, and'
	@echo '    CRASH=sysrq|KIND SYMBOLS=1|VMLINUX (1: 320 MB to fetch) MODULES=DIRECTORY TREE=DIRECTORY'
	@echo 'make trace     boot Linux with each exit to EL2 traced, and draw it: a page for a browser, and for Perfetto (1 min)'
	@echo '    WHAT=boot|kexec|crash RUN=COMMAND, and the variables of kexec and kdump (docs/trace.md)'
	@echo 'make debian    boot a Debian 13 with systemd from a disk that you keep: a login, and ssh (2 min; at first 20, and 180 MB to fetch)'
	@echo "make debian RUN='COMMAND'   run a shell command in it by ssh, and power off; CRASH=sysrq: let it die, and open its dump"
	@echo 'make debian-dump   open the newest dump that its kdump-tools have saved'
	@echo 'make drill     every way in which a Linux ends, on many machines (an hour and a half, 8 GB): DRILL=PART-OF-A-NAME KERNEL=... JUNIT=FILE'
	@echo 'make soak      a hundred kexecs in one QEMU, 6.12 and 6.1 in turn; is all as at first? (30 min) ROUNDS=100 ENTRY=el2|el1'
	@echo 'make build     target/exeunt-release.bin (PROFILE=debug: target/exeunt-debug.bin), and target/exeunt-guest, the program for'
	@echo '               the Linux above it, with their sizes'
	@echo 'make setup     install and fetch all that the targets here need, save test-all, debian, lint and check (each also does it itself)'
	@echo 'make test      the tests that need no QEMU, then those on QEMU (15 min)'
	@echo 'make test-all  the same with the slow ones: every kernel, CPU model and QEMU (hours)'
	@echo 'make lint      formatting, width, clippy for workstation, EL2 and guest programs, shellcheck, documentation (2 min)'
	@echo 'make check     lint, the tests that need no QEMU, Miri (20 min and more; scripts/check names the steps)'
	@echo 'make docs      the book: target/book/html/index.html (half a minute; at first 3 min, to build mdBook)'
	@echo 'make dist      a release: image, guest program, book and checksums, in target/dist (3 min; at first 6)'
	@echo "make bench     figures: instructions, exits, image size, RAM (5 min): BENCH='start calls ...' for some"
	@echo 'make clean     remove what builds and runs have made; make clean-all: also what was fetched. Disks of yours stay'

setup:
	@scripts/setup

build:
	@scripts/setup build
	@scripts/build
	@scripts/exeunt-guest

run:
	@scripts/run --given '$(GIVEN)'

guest:
	@EXAMPLE='$(EXAMPLE)' scripts/example --given '$(filter-out EXAMPLE,$(GIVEN))'

$(LABS):
	@scripts/lab $(patsubst lab-%,%,$@)

gdb:
	@scripts/gdb --given '$(GIVEN)'

map:
	@scripts/map --given '$(GIVEN)'

kexec:
	@scripts/kexec --given '$(GIVEN)'

kdump:
	@scripts/kdump --given '$(GIVEN)'

trace:
	@scripts/trace --given '$(GIVEN)'

debian:
	@scripts/debian --given '$(GIVEN)'

debian-dump:
	@scripts/debian-dump --given '$(GIVEN)'

drill:
	@scripts/drill --given '$(GIVEN)'

soak:
	@scripts/soak --given '$(GIVEN)'

test:
	@scripts/setup test
	cargo test --workspace --exclude exeunt-tests
	scripts/build
	cargo test --package exeunt-tests -- $(TEST_ARGS)

test-all:
	@scripts/setup test-all
	cargo test --workspace --exclude exeunt-tests
	scripts/build
	cargo test --package exeunt-tests -- $(TEST_ARGS) --include-ignored

lint:
	@scripts/setup lint
	@scripts/check lint

check:
	@scripts/setup check
	@scripts/check

docs:
	@scripts/setup book
	@cargo test --quiet --package exeunt-tools --test pages
	@scripts/book

dist:
	@scripts/setup book
	@scripts/dist

bench:
	@scripts/setup test
	scripts/build
	cargo run --release --package exeunt-tests --bin bench -- $(BENCH)

clean:
	@scripts/clean

clean-all:
	@scripts/clean downloads
