# shellcheck shell=dash disable=SC2154,SC2086 # the runner puts the variables and common.sh before it
# The kernel that dies.

facts first
if [ ! -e /sys/kernel/kexec_crash_size ]; then
    echo "first bad it keeps no memory for a crash kernel: it was built without CONFIG_CRASH_DUMP"
    exit 1
fi
memory first
if [ "$(cat /sys/kernel/kexec_crash_size)" = 0 ]; then
    echo "first bad no memory is kept for a crash kernel: $(dmesg | grep -i crashkernel | tail -n 3 | tr '\n' ';')"
    exit 1
fi
# kexec says of too little that the load failed, and no more.
kept=$(cat /sys/kernel/kexec_crash_size)
files=$(stat -c %s /next/vmlinuz /next/initrd | awk '{ sum += $1 } END { print sum }')
if [ "$kept" -lt "$files" ]; then
    echo "first bad $((kept >> 20)) MiB are kept for the crash kernel, and its files alone take $((files >> 20)) MiB (CRASHKERNEL=)"
    exit 1
fi
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do echo "first note ${cpu##*/cpu} $(cat "$cpu/crash_notes")"; done
if [ "$back" = 1 ]; then
    mkdir -p /tmp/tree/back && cp /sys/firmware/fdt /tmp/tree/back/tree &&
        (cd /tmp/tree && find . | cpio -o -H newc) >>/next/initrd
fi
# kexec-tools describe the kernel's image in the dump by the symbol _text, and where they do not find it they write a size of
# 16 EiB. The 6.1 of Debian 12 (without CONFIG_KALLSYMS_ALL) does not list it: there it is told, SEGMENT_ALIGN
# (arch/arm64/include/asm/memory.h) below _stext.
grep -q ' _text$' /proc/kallsyms || {
    printf '%x T _text\n' $((0x$(sed -n 's/ T _stext$//p' /proc/kallsyms) - 0x10000)) | cat /proc/kallsyms - >/tmp/kallsyms
    mount --bind /tmp/kallsyms /proc/kallsyms
}
or_say first kexec -p $no_checks /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line maxcpus=1 reset_devices" || exit
echo first loaded yes
if [ "$crash" = wild ]; then
    # Loaded again, unloaded, made smaller by what then is any memory, and loaded into the rest.
    or_say first kexec -p $no_checks /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line maxcpus=1 reset_devices" || exit
    or_say first kexec -p -u || exit
    or_say first sh -c "echo $((kept - (16 << 20))) >/sys/kernel/kexec_crash_size" || exit
    echo "first shrunk $kept $(cat /sys/kernel/kexec_crash_size)"
    or_say first kexec -p $no_checks /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line maxcpus=1 reset_devices" || exit
fi
if [ "$crash" = restart ]; then
    # On the way into a kexec, which is loaded while there is memory.
    or_say first kexec -l /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line" || exit
fi
if [ -e /tests/exeunt_test.ko ]; then
    or_say first insmod /tests/exeunt_test.ko calls=$with_exeunt || exit
    if [ "$fill" != 0 ]; then echo "first filled $(ask fill "$fill")"; fi
fi
on_cpu="taskset $(printf '%x' $((1 << from)))"
echo "first dies now${no_checks:+, unchecked}"
case $crash in
sysrq | killed) $on_cpu sh -c 'echo c >/proc/sysrq-trigger' ;;
killed-before)
    # It dies when it is asked, and says so.
    exeunt status >/tmp/status 2>&1
    $on_cpu sh -c 'echo c >/proc/sysrq-trigger'
    ;;
restart)
    echo crash restart >/proc/exeunt
    $on_cpu kexec -e
    ;;
panic)
    $on_cpu exeunt panic
    sleep 60
    ;;
panic-stuck)
    # On another CPU throughout: what is on this one will not run again.
    other=$(((from + 1) % $(nproc)))
    taskset "$(printf %x $((1 << other)))" sh -c "echo crash spin $from >/proc/exeunt && exeunt panic $from"
    sleep 60
    ;;
forced)
    $on_cpu exeunt panic --force
    ;;
forced-deaf)
    # The other CPU is told to panic, and cannot.
    other=$(((from + 1) % $(nproc)))
    $on_cpu sh -c "echo crash deaf $other >/proc/exeunt && exeunt panic $other && sleep 2 && exeunt panic --force"
    ;;
lockup-deaf)
    # By another CPU, which goes on.
    other=$(((from + 1) % $(nproc)))
    taskset "$(printf %x $((1 << other)))" sh -c "echo crash deaf $from >/proc/exeunt"
    sleep 200
    ;;
lockup-break)
    echo "crash lockup-all $from" >/proc/exeunt
    sleep 200
    ;;
busy-all)
    # Debian allows only some of the magic keys at a console.
    echo 1 >/proc/sys/kernel/sysrq
    echo "crash $crash $from" >/proc/exeunt
    sleep 200
    ;;
*)
    echo "crash $crash $from $turns" >/proc/exeunt
    sleep 60
    ;;
esac
echo first bad it survived
false
