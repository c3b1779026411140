# shellcheck shell=dash disable=SC2154,SC2013 # the runner puts the variables and common.sh before it
# Every boot of a soak: says what it found, reads the other kernel and the initrd from a disk, and kexecs. The number of the
# boot is on its command line; the first, number 0, is QEMU's and Exeunt's own, all others are kexec's.

round=0
for word in $(cat /proc/cmdline); do
    case $word in soak=*) round=${word#soak=} ;; esac
done
this=$((round % 2)) next=$(((round + 1) % 2))
bad() { echo "boot $round bad $*"; }
digest() { sha256sum | cut -c 1-8; }
live=- exits=-
if [ "$round" -lt "$with_exeunt" ]; then
    insmod /soak/$this/exeunt_test.ko || bad the test module does not load
    status=$(ask status)
    live=$(echo "$status" | sed -n 's/^ok .* live \([0-9]*\) .*/\1/p')
    exits=$(echo "$status" | awk '/^cpu / {
        for (i = 1; $i != "exits"; i++);
        for (class = 1; class <= 8; class++) sum[class] += $(i + class)
    } END { for (class = 1; class <= 8; class++) printf "%s%d", (class > 1 ? "," : ""), sum[class] }')
    crash=leave
    if [ $this = 1 ]; then crash=resident; fi
    kexec=resident
    if [ "$round" = $((rounds - 1)) ]; then kexec=leave; fi
    ask policy crash $crash >/dev/null
    answer=$(ask policy kexec $kexec)
    [ "$answer" = "ok kexec $kexec crash $crash" ] || bad "RESTART_POLICY answers $answer"
fi
echo "boot $round $(uname -r) $(dmesg | sed -n 's/.*CPU: All CPU(s) started at \(EL[12]\).*/\1/p') $(nproc)" \
    "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo) $(grep -v '^ ' /proc/iomem | digest) $(digest </proc/iomem)" \
    "$(stat -c %s /sys/firmware/fdt) ${live:-none} ${exits:-none} $(cut -d' ' -f1 /proc/uptime)"
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|inconsistent modes|failed to boot CPU' | while read -r line; do
    bad "$line"
done
dmesg | sed -n 's/.*kvm \[[0-9]*\]: \(.*mode initialized successfully\|HYP mode not available\|.*giving up\).*/\1/p' |
    tail -n1 | sed "s/^/boot $round kvm /"

# Works hard for $load seconds.
work_hard() {
    begin=$(cut -d. -f1 /proc/uptime) seconds=0 turns=0
    workers=
    for cpu in $(seq 0 $(($(nproc) - 1))); do
        while :; do
            dd if=/dev/urandom bs=64k count=16 2>/dev/null | digest >/dev/null
            sleep "0.$cpu"
        done &
        workers="$workers $!"
    done
    while [ "$seconds" -lt "$load" ]; do
        or_say "boot $round" kexec --load-panic --no-checks /next/$next/vmlinuz --initrd=/next/initrd \
            --command-line="$next_command_line" || break
        for cpu in /sys/devices/system/cpu/cpu[1-9]*; do
            { echo 0 >"$cpu/online" && echo 1 >"$cpu/online"; } || bad "${cpu##*/} does not go off and on"
        done
        or_say "boot $round" exeunt leave >/dev/null || break
        or_say "boot $round" exeunt back >/dev/null || break
        # In this order: the other way round kexec would load one that is not named.
        [ $((turns % 4)) != 3 ] || or_say "boot $round" kexec --load-panic --unload || break
        sleep 20
        turns=$((turns + 1)) seconds=$(($(cut -d. -f1 /proc/uptime) - begin))
    done
    # shellcheck disable=SC2086 # one word for each
    kill $workers
    echo "boot $round load $turns $seconds"
    dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace' | while read -r line; do
        bad "$line"
    done
}

if [ "$round" != "$rounds" ]; then
    load_modules /soak/$this "boot $round"
    mkdir -p /next
    tar xf /dev/vda -C /next $next/vmlinuz initrd || bad the disk cannot be read
    if [ "$load" != 0 ] && [ "$round" -lt "$with_exeunt" ]; then work_hard; fi
    # Without purgatory's checksums, which it would compute with the caches off.
    kexec --load --no-checks /next/$next/vmlinuz --initrd=/next/initrd \
        --command-line="$next_command_line soak=$((round + 1))" &&
        kexec --exec
    bad kexec returned
    false
fi
