# shellcheck shell=dash disable=SC2034,SC2154 # the runner puts variables before it, and a script after it
# What the scripts of every guest share. The runner puts the variables that a script names before this file, and the
# script after it. What a guest prints is read by the runner: `WHO WHAT VALUE`, where WHO is one of the kernels of a run.

# What this kernel has found.
facts() {
    echo "$1 release $(uname -r)"
    echo "$1 level $(dmesg | sed -n 's/.*CPU: All CPU(s) started at \(EL[12]\).*/\1/p')"
    echo "$1 cpus $(nproc)"
    echo "$1 kvm $(dmesg | sed -n 's/.*kvm \[[0-9]*\]: \(.*mode initialized successfully\|HYP mode not available\|.*giving up\).*/\1/p' | tail -n1)"
    echo "$1 seconds $(cut -d' ' -f1 /proc/uptime)"
    dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|inconsistent modes|failed to boot CPU' | sed "s/^/$1 bad /"
}

# What memory it has, and what of that is kept for a crash kernel.
memory() {
    echo "$1 ram $(grep -v '^ ' /proc/iomem | sed -n 's/^\([0-9a-f-]*\) : System RAM.*/\1/p' | tr '\n' ' ')"
    echo "$1 reserved $(cat /sys/kernel/kexec_crash_size)"
}

# Asks the test module.
ask() {
    exec 3<>/proc/exeunt
    echo "$*" >&3
    cat <&3
    exec 3>&-
}

# Loads the modules of the directory $1 in the order of $modules, as far as they are there. $2: who says so if one does not load.
load_modules() {
    for name in $modules; do
        [ ! -e "$1/$name.ko" ] || insmod "$1/$name.ko" 2>/tmp/said ||
            echo "$2 bad the module $name does not load: $(tr '\n' ' ' </tmp/said)$(dmesg | grep "^[^]]*] $name: " | tail -n1)"
    done
}

# Prints what a command that fails has said, with $1 in front, and fails as it did.
or_say() {
    who=$1
    shift
    "$@" 2>/tmp/said || {
        status=$?
        echo "$who bad $1: $(tr '\n' ' ' </tmp/said)"
        return $status
    }
}
