# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# A boot that is traced, and a person's command, if there is one.

facts first
if [ -n "$command" ]; then
    sh -c "$command"
    echo "first status $?"
fi
true
