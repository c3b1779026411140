# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# What scripts/kexec, scripts/kdump and scripts/soak share: their variables, the initrd of the next kernel, and how results are said.
# Sourced after lib.sh. Owns nothing; its callers name the directories.
#
#   ENTRY=el2        the host is entered at virtual EL2, or with el1 at EL1
#   POLICY=leave     what becomes of Exeunt at the restart: leave, or resident (what goes on at EL1 leaves Exeunt where it is)
#   NEXT=$KERNEL     the kernel that comes after: an alias or a file, as KERNEL=
#   FROM=CPU         the CPU that restarts or dies
#   CPU=, SMP=, MEM=, GIC=, KERNEL=, APPEND=, EXEUNT=, HYPERVISOR=, EL=, FIRMWARE=, PROFILE=, TIMEOUT= are those of scripts/run.
#
# CPU=max is taken for max,lpa2=off, unless KERNEL=backports kexecs: with LPA2 `kexec -l` oopses in Linux 6.12, also where there is no
# hypervisor, but not in 7.3; and makedumpfile gives up on a dump. CPU=max,lpa2=on says otherwise.

# Reads and checks the variables, sets up what they need, and exports what scripts/run takes. $1: the directory of this run.
restart_begin() {
    entry=${ENTRY:-el2} policy=${POLICY:-leave} hypervisor=${HYPERVISOR:-exeunt} from=${FROM:-}
    [[ $entry == el1 || $entry == el2 ]] || die "ENTRY=$entry: it is el1 or el2"
    [[ $policy == leave || $policy == resident ]] || die "POLICY=$policy: it is leave or resident"
    [[ $from =~ ^[0-9]*$ ]] || die "FROM=$from: it is the number of a CPU"
    export KERNEL=${KERNEL:-6.12} SMP=${SMP:-4} CPU=${CPU:-cortex-a57} GIC=${GIC:-3}
    export MEM=${MEM:-1G}
    MEM=${MEM^^}
    if [[ $MEM =~ ^[0-9]+$ ]]; then MEM+=M; fi
    next=${NEXT:-$KERNEL}
    if [[ -n $from ]] && ((from >= SMP)); then die "FROM=$from: there are $SMP CPUs"; fi
    if [[ $CPU == max && ($KERNEL != backports || $1 == */kdump) ]]; then CPU=max,lpa2=off; fi
    out=$(realpath -m -- "${OUT:-$1}")

    local parts=(run)
    next_alias="" next_vmlinuz=$next
    if [[ " $KERNEL_ALIASES " == *" $next "* ]]; then
        parts+=("kernel:$next")
        next_alias=$next next_vmlinuz=$GUEST/kernels/$next/vmlinuz
    elif [[ ! -f $next ]]; then
        die "NEXT=$next: neither a file nor one of $KERNEL_ALIASES"
    fi
    "$ROOT/scripts/setup" "${parts[@]}" "${@:2}" || exit 125

    rm -rf "$out"
    mkdir -p "$out/overlay/next"
    export OUT=$out OVERLAY=$out/overlay TIMEOUT=${TIMEOUT:-420}
    if [[ $hypervisor == exeunt ]]; then
        export EXEUNT="entry=$entry restart=$policy log=debug stats${EXEUNT:+ $EXEUNT}"
    else
        # The ITS does not survive a restart of a kernel that EFI did not boot; Exeunt hides it for that reason.
        export QEMU_EXTRA="-machine its=off ${QEMU_EXTRA:-}"
    fi
    # The kernel's detectors measure the time of a machine that others use as well. What really hangs meets the time limit.
    patient="nosoftlockup rcupdate.rcu_cpu_stall_suppress=1"
    export APPEND="$patient${APPEND:+ $APPEND}"
    next_command_line="console=ttyAMA0 quiet panic=-1 $patient"
}

# Makes the initrd $1, whose init runs the script on stdin. $2 is a directory that goes into it as well, or `-`.
make_initrd() {
    local extra=$out/script-archive part parts=()
    if [[ $2 != - ]]; then parts=("$2"); fi
    mkdir -p "$extra/exeunt"
    cat >"$extra/exeunt/run"
    cat -- "$GUEST/initramfs.cpio" >"$1"
    # An archive begins at a multiple of 4, with zeros before it (scripts/machine.sh).
    for part in "$extra" "${parts[@]}"; do
        truncate -s %512 "$1"
        make_cpio "$part" >>"$1"
    done
    rm -r "$extra"
}

# Makes $out/overlay/next/{vmlinuz,initrd}: the next kernel, whose init runs the script on stdin. $1 as $2 of make_initrd.
next_kernel() {
    cp -- "$next_vmlinuz" "$out/overlay/next/vmlinuz"
    make_initrd "$out/overlay/next/initrd" "$1"
}

# Shell functions for both kernels: `facts NAME` says what a kernel found, each line with NAME in front.
guest_functions=$(
    cat <<'GUEST'
facts() {
    echo "$1 release $(uname -r)"
    echo "$1 level $(dmesg | sed -n 's/.*CPU: All CPU(s) started at \(EL[12]\).*/\1/p')"
    echo "$1 cpus $(nproc)"
    echo "$1 kvm $(dmesg | sed -n 's/.*kvm \[[0-9]*\]: \(.*mode initialized successfully\|HYP mode not available\|.*giving up\).*/\1/p' | tail -n1)"
    echo "$1 seconds $(cut -d' ' -f1 /proc/uptime)"
    dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|inconsistent modes|failed to boot CPU' | sed "s/^/$1 bad /"
}
GUEST
)

# Puts the modules that the kernel $1 (an alias) needs for a virtio disk into the directory $2, as far as they are not built into it.
# `insmod` takes them in the order of $disk_modules. Debian 13 compresses them.
disk_modules="virtio_ring virtio virtio_mmio virtio_blk"
take_disk_modules() {
    local name file
    mkdir -p "$2"
    for name in $disk_modules; do
        file=$(find "$GUEST/kernels/$1/modules/" -name "$name.ko*" -print -quit)
        case $file in
        *.ko.xz) xz --decompress --stdout -- "$file" >"$2/$name.ko" ;;
        *.ko) cp -- "$file" "$2/$name.ko" ;;
        "") ;;
        *) die "$file: an unknown compression" ;;
        esac
    done
}

# Runs the machine with the script $1 in its first kernel: what the guests print goes to $out/guests.txt, and to the command that
# follows, if one does; the rest to $out/run.log. Sets `status`, `seconds`, and `console`.
restart_run() {
    local begin=$SECONDS
    status=0
    RUN=$1 "$ROOT/scripts/run" 2>"$out/run.log" | tee "$out/guests.txt" |
        if (($# == 1)); then cat >/dev/null; else "${@:2}"; fi || status=${PIPESTATUS[0]}
    seconds=$((SECONDS - begin))
    console=$out/console.log
    rm -rf "$out/overlay" "$out/initrd.cpio"
}

# The value of the line `$1 $2 VALUE` that a guest printed.
said() { sed -n "s/\r*$//; s/^$1 $2 //p" "$out/guests.txt" | tail -n1; }

# `CPU CALL` for each SET_VECTORS, SOFT_RESTART and RESET_VECTORS in Exeunt's log, in order. A line of a dying kernel's may be cut off by one
# of Exeunt's.
stub_calls() {
    sed -n 's/^.*\[exeunt .* cpu\([0-9]*\)\] DEBUG stub call \(0x[012]\),.*/\1 \2/p' "$console" |
        sed 's/ 0x0$/ SET_VECTORS/; s/ 0x1$/ SOFT_RESTART/; s/ 0x2$/ RESET_VECTORS/'
}

# Whether Exeunt was there when the machine went off: then it prints its counters.
exeunt_at_the_end() { grep -q 'all CPUs: exits:' "$console"; }

# The kind of machine, one line.
machine_line() { sed -n 's/^exeunt: \(.* RAM, GICv.*\)/\1/p' "$out/run.log" | head -n1; }

# Collects what is not as it should be, for the last line.
reasons=()
wrong() { reasons+=("$*"); }

# Ends with the line that says PASS or FAIL, and why. $1: why it passed.
verdict() {
    if ((${#reasons[@]} == 0)); then
        echo "PASS: $1"
        exit 0
    fi
    local IFS=';'
    echo "FAIL: ${reasons[*]} (console: ${console#"$ROOT/"})"
    exit 1
}
