# shellcheck shell=bash
# A private apt: package lists, caches and sources of its own, so that packages of any Debian release and architecture can
# be fetched with their signatures checked and without a change to the machine's own apt. Sourced after lib.sh.
# Owns the directories that its caller names (below target/). Never touches /etc/apt, /var/lib/apt or dpkg's database.
#
# From the machine it takes: the mirror that its own sources name, Debian's keyring, and its Acquire settings and
# credentials (proxies and the like).

# Debian signs every release's index with keys of this package: debian-archive-keyring.
debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        if [[ -r $file ]]; then
            echo "$file"
            return
        fi
    done
    say "Debian's keyring is missing: install debian-archive-keyring"
    return 1
}

# Prints the address of the machine's own mirror for the archive labelled $1: "Debian" or "Debian-Security".
# apt knows the label once it has fetched an index. Before that the release's name decides, and an address that ends as Debian's
# mirrors do goes before one that does not (a third party's repository may call its release "bookworm" as well).
debian_mirror() {
    # shellcheck disable=SC2016 # the $(...) are apt's; it leaves those alone that it has no value for
    local format='$(LABEL)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)'
    {
        apt-get indextargets --format "$format" 'Created-By: Packages'
        # Without this option apt lists only what it has fetched.
        apt-get indextargets --no-release-info --format "$format" 'Created-By: Packages'
    } 2>/dev/null | awk -F'|' -v want="$1" '
        $4 != "main" || $2 ~ /^cdrom:/ { next }
        {
            security = $3 ~ /-security$|\/updates$/
            known = $3 ~ /^(bullseye|bookworm|trixie|forky|sid|unstable|testing|stable|oldstable)(-security|\/updates)?$/
            rank = 0
            if ($1 == want) rank = 3
            else if ($1 == "$(LABEL)" && known && security == (want == "Debian-Security"))
                rank = ($2 ~ /\/debian(-security)?\/?$/) ? 2 : 1
            if (rank > best) { best = rank; mirror = $2 }
        }
        END { if (best) print mirror; else exit 1 }'
}

# Makes a private apt state in $1 for architecture $2, or for source packages if that is `source`, and the suites $3... (such as
# "trixie trixie-security") unless it is there, and fetches the suites' indexes. A security suite is left out where the machine has
# no mirror for it. On failure says why in one line and returns 1.
private_apt_update() {
    local state=$1 arch=$2 what="deb [arch=$2 " keyring mirror security suite log
    shift 2
    if [[ $arch == source ]]; then what="deb-src [" arch=$(dpkg --print-architecture); fi
    keyring=$(debian_keyring) || return 1
    if ! mirror=$(debian_mirror Debian); then
        say "apt on this machine has no source for Debian itself (apt-get indextargets shows none)"
        return 1
    fi
    security=$(debian_mirror Debian-Security) || security=

    mkdir -p "$state"/{lists/partial,cache/archives/partial}
    : >"$state/status"
    for suite; do
        case $suite in
        *-security)
            if [[ -n $security ]]; then
                echo "${what}signed-by=$keyring] $security $suite main"
            fi
            ;;
        *) echo "${what}signed-by=$keyring] $mirror $suite main" ;;
        esac
    done >"$state/sources.list"
    {
        # The machine's index targets and hooks serve its own package managers; its way to the network serves us too.
        apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets'
        cat <<CONF
Acquire::Languages "none";
Acquire::Retries "2";
APT::Architecture "$arch";
APT::Architectures "$arch";
APT::Sandbox::User "";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Log "$state";
CONF
    } >"$state/apt.conf"

    log=$state/update.log
    if ! private_apt "$state" apt-get update --error-on=any >"$log" 2>&1; then
        say "the package index of $1 for $arch cannot be had from this machine's mirror: $(apt_complaint "$log")"
        return 1
    fi
}

# Runs an apt command on the private state $1.
private_apt() {
    local state=$1
    shift
    APT_CONFIG=$state/apt.conf "$@"
}

# The first line of log $1 in which apt says what went wrong, without its prefix.
apt_complaint() { sed -n 's/^[EW]: //p' "$1" | grep -m1 . || tail -n1 "$1"; }

# Fetches the packages $3... of the private state $1 into directory $2; signatures are checked by apt. On failure says why in one
# line and returns 1.
private_apt_download() {
    local state=$1 into=$2
    shift 2
    mkdir -p "$into"
    if ! (cd "$into" && private_apt "$state" apt-get download -qq "$@") >"$state/download.log" 2>&1; then
        say "cannot fetch packages from this machine's mirror: $(apt_complaint "$state/download.log")"
        return 1
    fi
}

# The names of packages $2... and of all that they depend on, one a line, as the private state $1 resolves it.
private_apt_closure() {
    local state=$1
    shift
    private_apt "$state" apt-get install --simulate --no-install-recommends "$@" 2>"$state/simulate.log" |
        awk '$1 == "Inst" { print $2 }'
}

# Unpacks the packages in directory $1 below $2 and prints a manifest line for each: name, version, architecture, SHA-256.
unpack_debs() {
    local deb
    mkdir -p "$2"
    for deb in "$1"/*.deb; do
        dpkg-deb --extract "$deb" "$2"
        # shellcheck disable=SC2016 # dpkg's fields
        printf 'package\t%s\t%s\n' "$(dpkg-deb --show --showformat='${Package}\t${Version}\t${Architecture}' "$deb")" \
            "$(sha256sum <"$deb" | cut -d' ' -f1)"
    done
}
