# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# The kernel that kexecs the next one.

facts first
case $call in
"") ;;
*) or_say first insmod /tests/exeunt_test.ko || exit ;;
esac
case $call in
refused)
    for address in $refused_addresses; do
        echo "first refused-$address $(ask call all 1 "$address" 2 3 | grep -c "^cpu [0-9]* 0xbadca11 $address 0x2 0x3\$")"
    done
    ;;
lock) echo "first lock $(ask lock)" ;;
leave) echo "first leave $(ask leave-at-restart)" ;;
esac
if [ -n "$from" ]; then echo "$from" >/sys/kernel/reboot/cpu; fi
or_say first kexec -l /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line" || exit
echo first loaded yes
or_say first kexec -e
echo first bad kexec returned
false
