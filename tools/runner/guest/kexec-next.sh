# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# The kernel that was kexec'ed.

facts next
if [ -e /dev/kvm ] && [ -e /tests/kvm ]; then
    mount -t debugfs none /sys/kernel/debug
    /tests/kvm 0 $((cpus - 1))
    echo "next guest $?"
fi
true
