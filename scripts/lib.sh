# shellcheck shell=bash
# What scripts/run, scripts/test and .ci/run share: seeing to the packages and the toolchain they need.
# Sourced, never run. Installs only what is missing; a second time it touches nothing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Whether version $1 is $2 or later.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

have_postgres() {
    local initdb version
    for initdb in "${POSTGRES_BIN_DIR:+$POSTGRES_BIN_DIR/initdb}" /usr/lib/postgresql/*/bin/initdb \
        "$(command -v initdb || true)"; do
        if [ -x "$initdb" ]; then
            version=$("$initdb" --version | grep -oE '[0-9]+' | head -n 1)
            if [ "$version" -ge 15 ]; then return 0; fi
        fi
    done
    return 1
}

have_java() {
    local version
    have java || return 1
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 17 ]
}

# The packages, by Debian's names, that building and running need and that are missing.
missing_for_run() {
    local tool
    # The last two are what the first screen and the tour are pasted with.
    for tool in gcc g++ make pkg-config curl kcat; do
        have "$tool" || echo "$tool"
    done
    pkg-config --exists openssl 2>/dev/null || echo libssl-dev
    pkg-config --exists zlib 2>/dev/null || echo zlib1g-dev
    # Tests may be given a database instead.
    [ -n "${TEST_DATABASE_URL:-}" ] || have_postgres || echo postgresql
}

# The same for Apache Kafka.
missing_for_kafka() {
    have_java || echo java
    have mvn || echo maven
}

# The same for the proxies that the tests put in front of an API.
missing_for_gateways() {
    local proxy
    for proxy in nginx caddy; do
        have "$proxy" || [ -x "/usr/sbin/$proxy" ] || echo "$proxy"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! have sudo; then
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

apt_install() {
    # ucf asks about configuration files; the answer is to leave them as they are.
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold "$@" </dev/null >&2
}

# Debian's package makes and starts a cluster of its own, which nobody here asked for; the setting that stops it is
# put back afterwards. Existing clusters are not touched.
apt_install_postgresql() {
    local settings=/etc/postgresql-common/createcluster.conf kept status=0
    have pg_createcluster || apt_install postgresql-common || return 1
    kept=$(mktemp) || return 1
    cp "$settings" "$kept" || return 1
    printf 'create_main_cluster = false\n' | as_root tee -a "$settings" >/dev/null || return 1
    apt_install postgresql || status=$?
    as_root tee "$settings" <"$kept" >/dev/null || status=1
    rm -f "$kept"
    return "$status"
}

# Debian starts what it installs, now and at each boot, and nobody here asked for a proxy that listens.
apt_install_unstarted() {
    local policy=/usr/sbin/policy-rc.d is_ours=no status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" || return 1
        is_ours=yes
    fi
    apt_install "$@" || status=$?
    if [ "$is_ours" = yes ]; then as_root rm -f "$policy"; fi
    if have systemctl; then as_root systemctl disable "$@" >/dev/null 2>&1 || true; fi
    return "$status"
}

# Installs the packages named, if there are any. Answers 1, having said why, where that can't be done.
install_packages() {
    local package plain=() proxies=() postgresql=no
    [ "$#" -gt 0 ] || return 0
    if ! have apt-get; then
        say "missing: $*; this is not Debian or Ubuntu, so install what these packages of Debian hold yourself" \
            "(java: a Java runtime, 17 or later; postgresql: a PostgreSQL server, 15 or later)"
        return 1
    fi
    say "installing: $*"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get update </dev/null >&2; then
        say "apt-get update failed, or needs root: as root, run: apt-get update && apt-get install $*"
        return 1
    fi
    for package in "$@"; do
        case $package in
        postgresql) postgresql=yes ;;
        nginx | caddy) proxies+=("$package") ;;
        java)
            if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
                plain+=(openjdk-17-jre-headless)
            else
                plain+=(default-jre-headless)
            fi
            ;;
        *) plain+=("$package") ;;
        esac
    done
    if [ "${#plain[@]}" -gt 0 ] && ! apt_install "${plain[@]}"; then
        say "apt-get could not install ${plain[*]}"
        return 1
    fi
    if [ "${#proxies[@]}" -gt 0 ] && ! apt_install_unstarted "${proxies[@]}"; then
        say "apt-get could not install ${proxies[*]}"
        return 1
    fi
    if [ "$postgresql" = yes ]; then
        if ! apt_install_postgresql; then
            say "apt-get could not install postgresql"
            return 1
        fi
        if ! have_postgres; then
            say "this system's postgresql is older than 15: install a later one from the PostgreSQL project's own" \
                "package repository, or name its bin folder in POSTGRES_BIN_DIR"
            return 1
        fi
    fi
}

need_packages() {
    local missing
    mapfile -t missing < <(missing_for_run)
    install_packages "${missing[@]}" || fail "the packages this needs are not all there"
}

need_cargo() {
    local needed found advice
    needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
    if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
        export PATH
    fi
    if have rustup; then
        advice="rustup update stable && rustup default stable"
    else
        advice="install rustup, Rust's own installer (search for its name; where the system has it as a package, that \
one does), then: rustup default stable"
    fi
    have cargo || fail "no cargo: Rust $needed or later is needed. To get it: $advice"
    found=$(cargo --version | cut -d ' ' -f 2)
    at_least "$found" "$needed" || fail "cargo $found is too old: Rust $needed or later is needed. To get it: $advice"
}
