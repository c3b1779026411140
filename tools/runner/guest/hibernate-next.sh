# shellcheck shell=dash # the runner puts common.sh before it
# The crash kernel of a host that has hibernated.

facts next
true
