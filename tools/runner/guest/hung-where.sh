# shellcheck shell=dash disable=SC2154 # the runner puts the variables and common.sh before it
# Which function of this kernel is $offset bytes after the start of its Image, which is where _text is. Where that is not listed
# it is SEGMENT_ALIGN below _stext (see kdump-first.sh).

facts first
base=$(sed -n 's/ . _text$//p' /proc/kallsyms)
[ -n "$base" ] || base=$(printf %x $((0x$(sed -n 's/ T _stext$//p' /proc/kallsyms) - 0x10000)))
at=$(printf %016x $((0x$base + offset)))
line=$({
    grep -i ' t ' /proc/kallsyms | grep -v '\['
    echo "$at ~"
} | sort | grep -B1 '~$' | head -n1)
echo "first place ${line##* }+$(printf 0x%x $((0x$at - 0x${line%% *})))"
true
