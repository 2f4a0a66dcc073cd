# shellcheck shell=bash disable=SC2154
# scripts/bench revocation [--rounds N] [--rate DECISIONS]
#
# Four nodes on one log and one Apache Kafka, each asked for 500 decisions a second: how long from a deactivation over HTTP,
# and from a PermissionRevoked on the topic, until every node has denied the token. The whole distribution is shown; what
# is asked for is the 99th percentile. An acceptance of what was asked for after the answer to a deactivation fails the run.
# Last, the log is kept from all nodes by a lock: how long until they deny everything, which MAX_STALENESS_MS bounds.
#
# The client asks every 2 ms, which is part of what is measured; and it shares the processors with the nodes, the database
# and the broker.

bench() {
    local rounds=300 rate=500
    while [ $# -gt 0 ]; do
        case $1 in
        --rounds | --rate)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || revocation_usage
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        *) revocation_usage ;;
        esac
    done
    if [ -z "${TEST_KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        local missing
        mapfile -t missing < <(missing_for_kafka)
        install_packages "${missing[@]}" || fail "the packages this needs are not all there"
        "$root/scripts/kafka" prepare || fail "Apache Kafka can't be had here"
        exec "$root/scripts/kafka" run -- "$root/scripts/bench" revocation --rounds "$rounds" --rate "$rate"
    fi
    build
    cargo build --manifest-path "$root/Cargo.toml" --release --locked -p bench || fail "it does not build"
    # The topic has to be there for a node to get ready: Kafka makes it when it is asked for by somebody who writes.
    "${binary%/*}/membership" send --seed 0 --members 1 --events 0 --kafka "$TEST_KAFKA_BOOTSTRAP_SERVERS" \
        --topic featbit-membership >/dev/null
    start_node --kafka-bootstrap "$TEST_KAFKA_BOOTSTRAP_SERVERS"
    local nodes=(--node "$URL") number
    for number in 1 2 3; do
        start_another "$number"
        nodes+=(--node "$another")
    done
    say "4 nodes, $rate decisions a second each, $rounds revocations of each kind"
    DATABASE_URL=$DATABASE_URL ORG=$ORG DEVELOPER=$DEVELOPER DEVELOPER_JWT=$DEVELOPER_JWT KAFKA=$KAFKA TOPIC=$TOPIC \
        "${binary%/*}/revocation" "${nodes[@]}" --rounds "$rounds" --rate "$rate"
}

revocation_usage() {
    sed -n -e '1d' -e '/^$/q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# One more node of the same installation. Sets `another`, its address; it stops with the first one.
start_another() { # NUMBER
    local tenths
    mkdir -m 711 "$work/data$1"
    RUST_LOG=${RUST_LOG:-warn} "$binary" dev --data-dir "$work/data$1" --http 127.0.0.1:0 \
        --database-url "$DATABASE_URL" --kafka-bootstrap "$KAFKA" >"$work/node$1.log" 2>&1 </dev/null &
    others_of_node+=("$!")
    for ((tenths = 0; tenths < ready_limit_s * 10; tenths++)); do
        if [ -f "$work/data$1/dev.json" ]; then
            another=$(sed -n 's/.*"http": *"\([^"]*\)".*/\1/p' "$work/data$1/dev.json")
            return
        fi
        sleep 0.1
    done
    tail -n 20 "$work/node$1.log" >&2
    fail "node $1 did not get ready"
}
