# shellcheck shell=bash disable=SC2154
# scripts/bench replay [--events N] [--rounds N] [--organizations N] [--members N]
#
# A log of a realistic mix (bench/src/life.rs), replayed into all read models, beside the live ones and by the code of
# `replay`, and into an index that begins at position 0, by the live tailer; against the raw ordered read of the same rows,
# `copy (select * from events order by position) to stdout`. Each after the other, round by round, on one PostgreSQL of its
# own with default durability. The time of a replay is the sum of both. The first round compares what came of it with what is
# live; memory is looked at while the read models are replayed.

bench() {
    local arguments=()
    while [ $# -gt 0 ]; do
        case $1 in
        --events | --rounds | --organizations | --members)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || replay_usage
            arguments+=("$1" "$2")
            shift 2
            ;;
        *) replay_usage ;;
        esac
    done
    need_cargo
    need_packages
    say "building (release); the first time takes some minutes"
    cargo build --manifest-path "$root/Cargo.toml" --release --locked -p bench --bin replay || fail "it does not build"
    local work status=0
    work=$(mktemp -d)
    # PostgreSQL's user must get through it.
    chmod 711 "$work"
    say "filling a log, which takes some minutes, and measuring"
    "${CARGO_TARGET_DIR:-$root/target}/release/replay" --data-dir "$work" "${arguments[@]}" || status=$?
    rm -rf "$work"
    return "$status"
}

replay_usage() {
    sed -n -e '2,/^$/s/^# \{0,1\}//p' "$root/scripts/bench.d/replay.sh" >&2
    exit 2
}
