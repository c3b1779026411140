# shellcheck shell=bash
# The machine that `scripts/run` and `scripts/gdb` start: reads the variables, checks them, sees to it that what they name is
# there (scripts/setup, scripts/build), and composes QEMU's command line in the array `qemu`. Sourced after lib.sh.
# Owns the directory OUT. It starts nothing.
#
#   SMP=4            CPUs
#   MEM=1G           RAM: a number with K, M, G or T (M without); more than this machine has will do
#   CPU=cortex-a57   a CPU model of QEMU, with its options (max,lpa2=off)
#   GIC=3            2 or 3
#   KERNEL=6.12      the host kernel: a name that set-up knows (6.12 6.1 6.12-rt 6.12-16k backports 5.10), or a file: any
#                    arm64 Image. `backports` is the newest kernel that Debian has for its stable release
#   INITRD=          a file instead of the project's initramfs; `none` for no initrd at all
#   APPEND=          added to the host's command line
#   EXEUNT=          Exeunt's own options
#   RUN=             a shell command that the guest runs as root instead of giving a shell
#   OVERLAY=         a directory whose content is added to the initrd
#   PROFILE=release  or debug: which build of Exeunt
#   EXEUNT_BIN=      a ready image of Exeunt; nothing is built then
#   HYPERVISOR=exeunt  or none: the same host on bare QEMU, entered at the level EL=2 or EL=1
#   FIRMWARE=        tf-a: Arm's Trusted Firmware at EL3, below Exeunt (scripts/firmware); without, QEMU itself answers PSCI
#   THREADS=         multi or single: QEMU runs the CPUs in a thread each, which is its choice too, or in turn in one. With more CPUs
#                    than this machine has, those that wait for one another take most of the time of many threads: 8 CPUs with 64 GiB
#                    boot in 15 seconds of one, and in 220 of eight
#                    With FIRMWARE=tf-a it is single if nothing is said: a CPU that is off waits in BL31 with WFE, which QEMU makes
#                    an idle turn of its thread, so that 7 of them take seven eighths of a busy workstation from the one that boots
#   QEMU=            which QEMU;  QEMU_EXTRA=  further arguments for it, quoted as for a shell
#   OUT=target/run   directory for console.log and the composed initrd (while that is in use, target/run-2 and so on)
#
# Where things go in RAM, from its base at 0x40000000: Exeunt at 2 MiB (QEMU places an Image there), QEMU's device tree at
# half of the RAM but no higher than 128 MiB, the host's kernel and its initrd in what is left, lowest address first. With
# FIRMWARE=tf-a the device tree is at RAM's base, and everything else where it is without.

readonly KIB=1024 MIB=$((1024 * 1024)) GIB=$((1024 * 1024 * 1024))
readonly RAM_BASE=0x40000000
# Where QEMU puts an Image, and the firmware enters one.
readonly EXEUNT_OFFSET=$((2 * MIB))
# The models that TF-A knows (plat/qemu/common/common.mk): on another it stops before it has said anything.
readonly FIRMWARE_CPUS="cortex-a53 cortex-a55 cortex-a57 cortex-a72 cortex-a76 cortex-a710 neoverse-n1 neoverse-n2 neoverse-v1 max"

# An arm64 Image's header (Linux, Documentation/arch/arm64/booting.rst): offsets of the fields that matter here.
readonly IMAGE_TEXT_OFFSET=8 IMAGE_SIZE=16 IMAGE_MAGIC=56
readonly IMAGE_MAGIC_VALUE=ARMd # "ARM\x64"

align_up() { echo $((($1 + $2 - 1) / $2 * $2)); }

# Reads a little-endian 64-bit number at offset $2 of file $1.
read_u64() { od -An -t u8 --endian=little -j "$2" -N 8 -- "$1" | tr -d ' '; }

is_image() { [[ $(tail -c +$((IMAGE_MAGIC + 1)) -- "$1" 2>/dev/null | head -c 4 | tr -d '\0') == "$IMAGE_MAGIC_VALUE" ]]; }

# How much of RAM the Image $1 takes from where it is loaded: the header's image_size includes BSS, the file does not.
footprint_of() {
    local file_size header_size=0
    file_size=$(size_of "$1")
    if is_image "$1"; then header_size=$(read_u64 "$1" $IMAGE_SIZE); fi
    # A nonsensical header is Exeunt's to report, not the runner's.
    if ((header_size < file_size || header_size > ram)); then header_size=$file_size; fi
    echo "$header_size"
}

# --- the variables -------------------------------------------------------------------------------------------------------

check_variables() {
    smp=${SMP:-4} mem=${MEM:-1G} cpu=${CPU:-cortex-a57} gic=${GIC:-3} kernel=${KERNEL:-6.12} initrd=${INITRD:-}
    profile=${PROFILE:-release} hypervisor=${HYPERVISOR:-exeunt} el=${EL:-2} run=${RUN:-} overlay=${OVERLAY:-}
    qemu_program=${QEMU:-qemu-system-aarch64} firmware=${FIRMWARE:-} threads=${THREADS:-${FIRMWARE:+single}}

    [[ $smp =~ ^[1-9][0-9]{0,2}$ ]] || die "SMP=$smp: it is a number of CPUs, such as 4"
    [[ -z $threads || $threads == multi || $threads == single ]] || die "THREADS=$threads: it is multi or single"
    [[ $mem =~ ^([1-9][0-9]{0,8})([KMGTkmgt]?)$ ]] || die "MEM=$mem: it is a size such as 512M or 4G"
    ram=${BASH_REMATCH[1]}
    case ${BASH_REMATCH[2]} in
    [Kk]) ram=$((ram * KIB)) ;;
    "" | [Mm]) ram=$((ram * MIB)) ;;
    [Gg]) ram=$((ram * GIB)) ;;
    [Tt]) ram=$((ram * KIB * GIB)) ;;
    esac
    ((ram % MIB == 0)) || die "MEM=$mem: it is a multiple of 1 MiB"
    [[ $gic == [23] ]] || die "GIC=$gic: it is 2 or 3"
    if ((gic == 2 && smp > 8)); then die "SMP=$smp with GIC=2: a GICv2 has 8 CPUs at most"; fi
    [[ $profile == release || $profile == debug ]] || die "PROFILE=$profile: it is release or debug"
    [[ $hypervisor == exeunt || $hypervisor == none ]] || die "HYPERVISOR=$hypervisor: it is exeunt or none"
    [[ $el == [12] ]] || die "EL=$el: it is 1 or 2"
    if [[ $hypervisor == exeunt && $el == 1 ]]; then die "EL=1 goes with HYPERVISOR=none: Exeunt needs EL2"; fi
    [[ -z $firmware || $firmware == tf-a ]] || die "FIRMWARE=$firmware: it is tf-a, or empty"
    if [[ -n $firmware ]]; then
        if [[ $hypervisor == none || $gic == 2 ]]; then die "FIRMWARE=$firmware goes with HYPERVISOR=exeunt and GIC=3"; fi
        if ((smp > 32)); then die "SMP=$smp with FIRMWARE=$firmware: it knows 32 CPUs"; fi
        [[ " $FIRMWARE_CPUS " == *" ${cpu%%,*} "* ]] || die "CPU=$cpu with FIRMWARE=$firmware: it knows $FIRMWARE_CPUS"
    fi
    if [[ -n $overlay && ! -d $overlay ]]; then die "OVERLAY=$overlay: no such directory"; fi
    if [[ -n $initrd && $initrd != none && ! -f $initrd ]]; then die "INITRD=$initrd: no such file"; fi
    if [[ -n ${EXEUNT_BIN:-} && ! -f $EXEUNT_BIN ]]; then die "EXEUNT_BIN=$EXEUNT_BIN: no such file"; fi
    if [[ $initrd == none && -n $run$overlay ]]; then die "INITRD=none leaves no place for RUN= and OVERLAY="; fi

    alias=
    if [[ " $KERNEL_ALIASES " == *" $kernel "* ]]; then
        alias=$kernel
        kernel=$GUEST/kernels/$alias/vmlinuz
    elif [[ ! -f $kernel ]]; then
        die "KERNEL=$kernel: neither a file nor one of $KERNEL_ALIASES"
    fi
}

prepare() {
    local parts=(qemu)
    if [[ $hypervisor == exeunt && -z ${EXEUNT_BIN:-} ]]; then parts+=(build); fi
    if [[ -n $alias ]]; then parts+=("kernel:$alias"); fi
    if [[ -z $initrd ]]; then parts+=(initramfs); fi
    if [[ -n $firmware ]]; then parts+=(firmware); fi
    "$ROOT/scripts/setup" "${parts[@]}" "$@" || exit 125

    if ! command -v "$qemu_program" >/dev/null; then die "QEMU=$qemu_program: no such program"; fi
    # Lines of `-cpu help` begin with the model's name.
    "$qemu_program" -cpu help | awk '{ print $1 }' | grep -qxF -- "${cpu%%,*}" ||
        die "CPU=${cpu%%,*}: this QEMU ($(qemu_version)) does not have it; \`$qemu_program -cpu help\` lists what it has"

    if [[ -z $initrd ]]; then
        initrd=$GUEST/initramfs.cpio
    elif [[ $initrd == none ]]; then
        initrd=
    fi
    if [[ $hypervisor == exeunt ]]; then
        exeunt_bin=${EXEUNT_BIN:-$TARGET/exeunt-$profile.bin}
        if [[ -z ${EXEUNT_BIN:-} ]]; then QUIET=1 PROFILE=$profile "$ROOT/scripts/build" >/dev/null || exit 125; fi
        is_image "$exeunt_bin" || die "$exeunt_bin is not an arm64 Image"
    fi
    take_out
}

# Sets `out` and keeps it for this machine: two that write the same console.log would each take the other's end for their own.
take_out() {
    local number=1
    out=$(realpath -m -- "${OUT:-$TARGET/run}")
    while mkdir -p "$out" && exec {out_lock}>"$out/.lock" && ! flock --nonblock "$out_lock"; do
        exec {out_lock}>&-
        if [[ -n ${OUT:-} ]]; then die "OUT=$OUT: another machine is using it"; fi
        number=$((number + 1))
        out=$TARGET/run-$number
    done
}

qemu_version() { "$qemu_program" --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p'; }

# --- the initrd ----------------------------------------------------------------------------------------------------------

# The kernel unpacks archives that follow each other in one initrd, later files over earlier ones. That is how OVERLAY and RUN get
# in: as archives of their own behind the initramfs, whichever it is.
compose_initrd() {
    if [[ -z $overlay && -z $run ]]; then return; fi
    local composed=$out/initrd.cpio script=$out/run-archive
    cat -- "$initrd" >"$composed"
    if [[ -n $overlay ]]; then
        pad "$composed"
        make_cpio "$overlay" >>"$composed"
    fi
    if [[ -n $run ]]; then
        mkdir -p "$script/exeunt"
        printf '%s\n' "$run" >"$script/exeunt/run"
        pad "$composed"
        make_cpio "$script" >>"$composed"
        rm -r "$script"
    fi
    initrd=$composed
}

# --- addresses -----------------------------------------------------------------------------------------------------------

# Takes the lowest $1 bytes that are free at a multiple of $2, and puts their offset from RAM's base into `place`.
# `taken` holds what is in use: start, end, start, end...
taken=()
allocate() {
    local size=$1 alignment=$2 i moved=1
    place=0
    while ((moved)); do
        moved=0
        for ((i = 0; i < ${#taken[@]}; i += 2)); do
            if ((place < taken[i + 1] && taken[i] < place + size)); then
                place=$(align_up "${taken[i + 1]}" "$alignment")
                moved=1
            fi
        done
    done
    ((place + size <= ram)) || die "MEM=$mem is too little for $3 ($((size / MIB)) MiB) beside what is there already"
    taken+=("$place" $((place + size)))
}

place_modules() {
    local exeunt_size text_offset=0 tree
    exeunt_size=$(footprint_of "$exeunt_bin")
    # QEMU (hw/arm/boot.c): its own boot stub at RAM's base, the Image 2 MiB above that, the device tree at half of the RAM
    # but no higher than 128 MiB, on a 2 MiB boundary. The tree is padded to 1 MiB.
    # With firmware: the device tree at RAM's base, where firmware expects it.
    taken=(0 $((EXEUNT_OFFSET + exeunt_size)))
    if [[ -z $firmware ]]; then
        tree=$((ram / 2 < 128 * MIB ? ram / 2 : 128 * MIB))
        tree=$(align_up "$tree" $((2 * MIB)))
        ((tree >= taken[1] && tree + 2 * MIB <= ram)) || die "MEM=$mem is too little for Exeunt and a device tree"
        taken+=("$tree" $((tree + 2 * MIB)))
    fi

    # An Image lies text_offset bytes above a 2 MiB boundary.
    if is_image "$kernel"; then
        text_offset=$(read_u64 "$kernel" $IMAGE_TEXT_OFFSET)
    else
        say "note: $kernel is no arm64 Image (compressed, perhaps?); Exeunt is given it as it is"
    fi
    if ((text_offset >= 2 * MIB)); then text_offset=0; fi
    allocate $((text_offset + $(footprint_of "$kernel"))) $((2 * MIB)) "the kernel"
    kernel_address=$((RAM_BASE + place + text_offset))
    if [[ -n $initrd ]]; then
        # 64 KiB is the largest page.
        allocate "$(size_of "$initrd")" $((64 * KIB)) "the initrd"
        initrd_address=$((RAM_BASE + place))
    fi
}

# --- QEMU's command line -------------------------------------------------------------------------------------------------

# QEMU's option syntax takes a comma for the end of the value unless it is doubled.
escape() { printf '%s' "${1//,/,,}"; }

terminal_size() { stty size 2>/dev/null | awk '$1 && $2 { printf "LINES=%d COLUMNS=%d", $1, $2 }'; }

# `$@`: set-up parts beyond those that the variables ask for. Leaves the command in the array `qemu`, without a console.
compose_machine() {
    check_variables
    prepare "$@"
    compose_initrd

    local virtualization=on bootargs extra
    if ((el == 1)); then virtualization=off; fi
    bootargs="console=ttyAMA0 earlycon"
    # The command's output is what counts in a run: of the kernel, warnings only. A panic ends the run at once.
    if [[ -n $run ]]; then bootargs+=" quiet panic=-1"; fi
    # A kernel hands parameters that it does not know to its init as environment variables.
    if [[ -z $run && -t 0 && -t 2 ]]; then bootargs+=" TERM=${TERM:-linux} $(terminal_size)"; fi
    bootargs+="${APPEND:+ $APPEND}"

    qemu=(
        "$qemu_program" -accel "tcg${threads:+,thread=$threads}" -display none -nodefaults -nic none
        -machine "virt,virtualization=$virtualization,gic-version=$gic,memory-backend=ram"
        -cpu "$cpu" -smp "$smp" -m "$((ram / MIB))M"
        # Pages are taken when the guest touches them: it may have more RAM than this machine.
        -object "memory-backend-ram,id=ram,size=$((ram / MIB))M,reserve=off"
    )
    if [[ $hypervisor == exeunt ]]; then
        place_modules
        qemu+=(-kernel "$exeunt_bin")
        if [[ -n $firmware ]]; then
            # Of -kernel QEMU then keeps only the command line: the image is put into RAM here.
            qemu+=(-machine secure=on -bios "$TARGET/firmware/flash.bin" -device "$(printf 'loader,file=%s,addr=%#x,force-raw=on' \
                "$(escape "$exeunt_bin")" $((RAM_BASE + EXEUNT_OFFSET)))")
        fi
        if [[ -n ${EXEUNT:-} ]]; then qemu+=(-append "$EXEUNT"); fi
        qemu+=(-device "$(printf 'guest-loader,addr=%#x,kernel=%s,bootargs=%s' \
            "$kernel_address" "$(escape "$kernel")" "$(escape "$bootargs")")")
        if [[ -n $initrd ]]; then
            qemu+=(-device "$(printf 'guest-loader,addr=%#x,initrd=%s' "$initrd_address" "$(escape "$initrd")")")
        fi
    else
        qemu+=(-kernel "$kernel" -append "$bootargs")
        if [[ -n $initrd ]]; then qemu+=(-initrd "$initrd"); fi
    fi
    split_words "${QEMU_EXTRA:-}" extra
    qemu+=("${extra[@]}")
}

# One line on what runs.
machine_facts() {
    local what=$kernel
    if [[ -n $alias ]]; then what="Linux $(<"$GUEST/kernels/$alias/version")"; fi
    case $hypervisor in
    exeunt) what+=" under Exeunt ($(size_of "$exeunt_bin") bytes, $profile)" ;;
    none) what+=" without a hypervisor, entered at EL$el" ;;
    esac
    echo "$what; $smp x $cpu, $mem RAM, GICv$gic, QEMU $(qemu_version)"
}
