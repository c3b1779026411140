# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# What every script here shares: where things are, and how to speak. Sourced, never run.
# Owns no state. It writes nothing and changes no setting of the machine.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=$ROOT/target
# The guest's packages, kernels and initramfs; `scripts/guest-packages` and `scripts/initramfs` fill it.
GUEST=$TARGET/guest
# A kernel of Debian's is called by a version or by a release, and perhaps a flavour: 7.2, 6.12-rt, testing, bookworm-backports-16k.
# Without a flavour it is the cloud kernel, which is the smallest; `arm64` is the one that people install. A version is looked for in
# the releases in this order, and the first that has it is taken; `backports` are those of the stable release.
KERNEL_RELEASES="trixie trixie-backports bookworm bookworm-backports bullseye testing unstable experimental"
# Other names of releases.
KERNEL_RELEASES_TOO="backports stable stable-backports oldstable oldstable-backports forky sid"
KERNEL_FLAVOURS="cloud arm64 rt 16k"
# Those with which the tests work.
KERNEL_ALIASES="6.12 6.1 6.12-rt 6.12-16k backports 5.10"

# The documented paths are below target/, wherever the caller's cargo usually builds.
export CARGO_TARGET_DIR=$TARGET

# rustup puts itself on the PATH of login shells only.
if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi

# Everything that the scripts say goes to stderr: stdout belongs to the command that runs in the guest.
say() { printf 'exeunt: %s\n' "$*" >&2; }

# 125 says "the runner itself failed", as with env(1) and timeout(1); the guest's own statuses stay recognisable.
die() {
    say "$*"
    exit 125
}

# All that is made goes below target/. Says so where that cannot be, before other programs fail for it in words of their own.
check_target() {
    local why
    why=$(mkdir -p "$TARGET" 2>&1) || die "target/ cannot be made: ${why##*: }"
    # True of root too, unless the file system is read-only.
    [[ -w $TARGET ]] || die "target/ cannot be written to: it is another user's, or on a read-only file system"
}

# Becomes the runner (tools/runner) with these arguments; builds it first, if need be.
runner() {
    local quiet=(--quiet)
    check_target
    "$ROOT/scripts/setup" build || exit 125
    if [[ ! -x $TARGET/debug/runner ]]; then
        say "building the runner (half a minute)"
        # A person sees how far cargo is. Where nobody looks its hundred lines tell nothing.
        if [[ -t 2 ]]; then quiet=(); fi
    elif [[ -n $(find "$ROOT/tools/runner/src" -newer "$TARGET/debug/runner" -print -quit) ]]; then
        say "building the runner"
    fi
    cargo build "${quiet[@]}" --manifest-path "$ROOT/Cargo.toml" --package exeunt-runner || die "the runner does not build"
    exec "$TARGET/debug/runner" "$@"
}

# Takes the name $1 of a kernel apart: sets `release` or `number`, and `flavour` to the end of its packages' names.
name_of() {
    local name=$1 known
    release='' number='' flavour=cloud
    for known in $KERNEL_FLAVOURS; do
        if [[ $name == *-"$known" ]]; then
            flavour=$known name=${name%-"$known"}
            break
        fi
    done
    case $flavour in
    cloud | rt) flavour=$flavour-arm64 ;;
    16k) flavour=arm64-16k ;;
    esac
    if [[ $name =~ ^[0-9]+\.[0-9]+(\.[0-9]+)*$ ]]; then
        number=$name
    elif [[ " $KERNEL_RELEASES $KERNEL_RELEASES_TOO " == *" $name "* ]]; then
        release=${name/#backports/trixie-backports}
    else
        die "no kernel is called '$1': it is a version such as 7.2, or one of the releases $KERNEL_RELEASES;" \
            "behind it a flavour, as in 6.12-rt: $KERNEL_FLAVOURS"
    fi
}

# The number of bytes that file $1 has, symbolic links followed.
size_of() { stat -L -c %s -- "$1"; }

# Writes a cpio archive of the directory $1 to stdout, the same bytes for the same content: sorted names, owner 0:0, inode
# and device numbers counted from 0. The times are the files' own; who wants them fixed sets them first.
make_cpio() {
    (cd "$1" && find . -mindepth 1 -printf '%P\0' | LC_ALL=C sort -z |
        cpio --null --create --format=newc --reproducible --owner=0:0 --quiet)
}
