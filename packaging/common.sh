# Sourced by packaging/quickstart and tests/run: Debian packages and a Rust toolchain. Changes nothing by being sourced.
# shellcheck shell=bash

say() { printf '== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need_root WHY
need_root() {
    [ "$(id -u)" = 0 ] || die "needs root ($1). Nothing was changed. Run: sudo $0"
}

# need_packages NAME...: installs the Debian packages that are not installed yet.
need_packages() {
    local package missing=()
    command -v apt-get >/dev/null || die "this script knows Debian's apt-get only, and it is not here. Install by hand: $*"
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    apt_deadline=$((SECONDS + apt_patience))
    apt_get update || die "apt-get update failed; see above. Nothing was installed"
    apt_get install -y --no-install-recommends "${missing[@]}" || die "apt-get could not install: ${missing[*]}; see above"
}

# Seconds to wait for apt's locks: a fresh cloud server installs its updates just when somebody logs in for the first time.
apt_patience=300 apt_deadline=0 apt_said=no

# apt_get ARGUMENT...: apt-get, tried again until apt_deadline while another program holds one of its locks. DPkg::Lock::Timeout is about
# /var/lib/dpkg/lock-frontend alone; apt-get gives up at once where /var/lib/apt/lists/lock or /var/cache/apt/archives/lock is held.
apt_get() {
    local left errors status
    while :; do
        left=$((apt_deadline - SECONDS)) status=0
        [ "$left" -gt 0 ] || left=0
        { errors=$(LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout="$left" "$@" 2>&1 >&3) || status=$?; } 3>&1
        case $status:$left:$errors in
        0:* | *:0:*) break ;;
        *"Could not get lock "*) ;;
        *) break ;;
        esac
        if [ "$apt_said" = no ]; then
            apt_said=yes
            say "another program holds apt's lock; waiting for it, $apt_patience seconds at most:"
            printf '%s\n' "$errors" | grep -m 1 "Could not get lock "
        fi
        sleep 2
    done
    [ -z "$errors" ] || printf '%s\n' "$errors" >&2
    return "$status"
}

# is_address TEXT: an IPv4 or IPv6 address as inet_pton(3) takes it.
is_address() {
    local text=$1 group='[0-9a-fA-F]{1,4}' side colons groups=0
    case $text in
    *:*.*)
        is_ipv4 "${text##*:}" || return 1
        text=${text%:*}:0:0
        ;;
    *:*) ;;
    *)
        is_ipv4 "$text"
        return
        ;;
    esac
    for side in "${text%%::*}" "${text#*::}"; do
        [[ $side =~ ^($group(:$group)*)?$ ]] || return 1
        colons=${side//[!:]/}
        [ -z "$side" ] || groups=$((groups + ${#colons} + 1))
        # Without `::` both sides are the whole.
        [[ $text == *::* ]] || { [ "$groups" = 8 ]; return; }
    done
    [ "$groups" -le 7 ]
}

is_ipv4() {
    local part='(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])'
    [[ $1 =~ ^$part\.$part\.$part\.$part$ ]]
}

# need_rust CLONE [COMPONENT...]: puts a cargo on PATH that is at least the rust-version of CLONE/Cargo.toml. Runs no installer that comes
# over the network: a toolchain comes through rustup, and rustup from Debian or from the person.
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$1/Cargo.toml")
    [ -n "$wanted" ] || die "$1/Cargo.toml names no rust-version"
    shift
    HOME=$(getent passwd 0 | cut -d: -f6)
    export HOME
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    have=$(rust_version)
    if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]; then
        need_components "$@"
        return 0
    fi
    have="cargo is ${have:-missing}${have:+, older than $wanted}"
    if ! command -v rustup >/dev/null; then
        debian_has_rustup || ask_for_rust "$have" "$wanted"
        need_packages rustup
    fi
    say "$have: installing Rust $wanted for root with rustup, into $HOME/.rustup"
    rustup -q toolchain install "$wanted" --profile minimal || die "rustup could not install Rust $wanted; see above"
    # This run only: which toolchain root uses by default is root's business.
    export RUSTUP_TOOLCHAIN=$wanted
    hash -r
    have=$(rust_version)
    [ -n "$have" ] || die "cargo still does not run after rustup installed it; see above"
    need_components "$@"
}

# Debian 13 and later.
debian_has_rustup() {
    command -v apt-cache >/dev/null || return 1
    apt-cache policy rustup 2>/dev/null | grep -q '^  Candidate: [0-9]'
}

# ask_for_rust HAVE WANTED: ends with the commands. rustup-init is a program, not a script for a shell, and root runs it after a look at
# its digest.
ask_for_rust() {
    local target
    target=https://static.rust-lang.org/rustup/archive/1.28.2/$(uname -m)-unknown-linux-gnu/rustup-init
    cat >&2 <<ASK
${0##*/}: $1, and Debian $(cat /etc/debian_version 2>/dev/null || true) has no rustup package. Nothing was installed.
This script runs no installer from the internet. Install a toolchain for root yourself, then run this again:

  curl --proto '=https' --tlsv1.2 -sSfO $target
  sha256sum rustup-init    # compare with $target.sha256, read in a browser of another machine
  chmod +x rustup-init && sudo ./rustup-init --no-modify-path --profile minimal --default-toolchain $2
ASK
    exit 1
}

# Prints the version of the cargo on PATH, or nothing.
rust_version() {
    cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p' || true
}

# need_components NAME...: rustfmt and clippy are not in rustup's minimal profile.
need_components() {
    local component missing=()
    for component in "$@"; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || missing+=("$component")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v rustup >/dev/null || die "cargo has no ${missing[*]} and there is no rustup to add it; install it and run this again"
    say "adding to Rust: ${missing[*]}"
    rustup -q component add "${missing[@]}" || die "rustup could not add ${missing[*]}; see above"
}

# give_back CLONE: what root built belongs to whoever owns the clone, so that their own cargo can go on there.
give_back() {
    if [ -d "$1/target" ] && [ "$(stat -c %u "$1")" != 0 ]; then
        chown -R --no-dereference --reference="$1" "$1/target"
    fi
}
