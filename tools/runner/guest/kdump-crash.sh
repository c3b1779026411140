# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# The crash kernel: makedumpfile filters /proc/vmcore onto the disk, compressed or as an ELF.

facts next
if [ ! -e /proc/vmcore ]; then
    echo "next bad there is no /proc/vmcore: it was built without CONFIG_PROC_VMCORE, or does not take itself for a crash kernel"
    exit 1
fi
echo "next vmcore $(stat -c %s /proc/vmcore)"
vmcore-dmesg /proc/vmcore | sed 's/^/next dmesg /'
load_modules /modules next
set -o pipefail
# makedumpfile up to 1.7.8 goes by the address size that the kernel was built for, and gives up on 52 bits with pages of 4 and
# 16 KiB. Without LPA2 the kernel uses 48 or 47, and that is what it is told here. To symbols of such a file it adds the offset
# of KASLR.
info=
dd if=/proc/vmcore bs=64k count=1 2>/dev/null | tr '\0' '\n' | sed -n '/^OSRELEASE=/,/^$/p' >/tmp/vmcoreinfo
t1sz=$(sed -n 's/^NUMBER(TCR_EL1_T1SZ)=//p' /tmp/vmcoreinfo)
bits=$((64 - ${t1sz:-0}))
if grep -qE '^PAGESIZE=(4096|16384)$' /tmp/vmcoreinfo && [ $bits -lt 52 ]; then
    offset=$(sed -n 's/^KERNELOFFSET=//p' /tmp/vmcoreinfo)
    while IFS= read -r line; do
        case $line in
        'NUMBER(VA_BITS)=52') echo "NUMBER(VA_BITS)=$bits" ;;
        'SYMBOL('*) printf '%s=%x\n' "${line%=*}" $((0x${line#*=} - 0x${offset:-0})) ;;
        *) printf '%s\n' "$line" ;;
        esac
    done </tmp/vmcoreinfo >/tmp/vmcoreinfo-used
    info="-i /tmp/vmcoreinfo-used"
fi
# Whether the kernel's release $1 has two numbers, as 7.3-cloud-arm64. libkdumpfile, by which drgn reads a compressed dump, takes
# three, as 7.2.12, and says "Invalid kernel version" otherwise. An ELF drgn reads by itself.
has_two_numbers() {
    printf '%s\n' "$1" | grep -qE '^[0-9]+\.[0-9]+([^.0-9]|$)'
}

if [ -z "$format" ]; then
    format=kdump
    release=$(sed -n 's/^OSRELEASE=//p' /tmp/vmcoreinfo)
    if has_two_numbers "$release"; then
        format=elf
        echo "next note $release has two numbers, which libkdumpfile does not take: the dump is an ELF"
    fi
fi
# Flattened: makedumpfile would seek otherwise, and the file's size would be unknown on the other side. It writes page by page,
# and what is written to a disk in pieces smaller than its blocks has to be read first: dd makes large pieces of them. LZO: zlib
# takes minutes for a dump full of a pattern where QEMU translates each instruction.
kind=-l
if [ "$format" = elf ]; then kind=-E; fi
# shellcheck disable=SC2086 # $info is nothing or two words
dump_with() { makedumpfile "$@" -F $kind -d "$level" $info /proc/vmcore 2>/tmp/makedumpfile; }
# How many bytes come, in whole blocks of $1. dd counts blocks; wc goes through the bytes one by one, and takes a minute for 80 MB
# where makedumpfile takes 5 s. Where the dump ends in the last block the runner finds out.
size_in() {
    dd of=/dev/null ibs=64k obs="$1" 2>&1 | sed -n 's/+\([01]\) records out/ \1/p' |
        { read -r whole rest && echo $(((whole + rest) * $1)); }
}
# How far it is, for the runner.
watch_it() {
    while sleep 5; do
        echo "next progress $(tr '\r' '\n' </tmp/makedumpfile | sed -n 's/^Copying data *: *\[ *\([0-9.]*\) %\].*/\1/p' | tail -n1)"
    done
}
: >/tmp/makedumpfile
watch_it &
watcher=$!
echo next dumping yes
if [ ! -b /dev/vda ]; then
    echo "next bad there is no disk: a kernel with virtio_blk and virtio_mmio built in has one, or with their modules (MODULES=)"
elif dump_with | dd of=/dev/vda ibs=64k obs=1M 2>/tmp/dd && sync; then
    echo next dumped yes
elif grep -q 'No space left' /tmp/dd; then
    echo "next bad the disk is too small: it has $(($(cat /sys/class/block/vda/size) * 512)) bytes, and the dump $(dump_with | size_in 512)"
else
    echo "next bad the dump is not complete: $(tr '\r' '\n' </tmp/makedumpfile | grep -v 'Copying data' | tail -n6) $(cat /tmp/dd)"
fi
kill $watcher
if [ "$read" = 1 ]; then
    echo "next read $(size_in 4096 </proc/vmcore)"
    echo "next unmapped $(dump_with --non-mmap | size_in 512)"
fi
# It began with one CPU. What the dead kernel has left must not keep it from the others.
for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
    [ ! -e "$cpu" ] || echo 1 2>/dev/null >"$cpu" || echo "next silent ${cpu%/online}"
done
echo "next started $(nproc)"
if [ "$back" = 1 ]; then
    or_say next kexec --load --no-checks /back/vmlinuz --initrd=/back/initrd --dtb=/back/tree \
        --command-line="$next_command_line crashkernel=$reserved" && or_say next kexec --exec
    echo next bad kexec returned
fi
true
