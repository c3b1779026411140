# shellcheck shell=dash # the runner puts common.sh before it
# The host's kernel once more, which the crash kernel has kexec'ed.

facts back
memory back
true
