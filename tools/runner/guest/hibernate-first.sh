# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# The kernel that hibernates on one machine, goes on from here on another one, and dies there.

load_modules /modules first
mkswap /dev/vda >/dev/null && swapon /dev/vda && echo shutdown >/sys/power/disk || exit
or_say first kexec -p /next/vmlinuz --initrd=/next/initrd --command-line="$next_command_line nr_cpus=1" || exit
echo first hibernates now
echo disk >/sys/power/state || exit
facts first
echo "first resumed $(cat /proc/uptime)"
# Back after a LEAVE, Exeunt must not guard the memory that the image was written over.
[ "$with_exeunt" = 0 ] || { or_say first exeunt leave && or_say first exeunt back; } || exit
taskset "$(printf '%x' $((1 << from)))" sh -c 'echo c >/proc/sysrq-trigger'
