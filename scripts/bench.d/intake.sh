# shellcheck shell=bash disable=SC2154
# scripts/bench intake [--rounds N] [--events N] [--members N] [--beside]
#
# A: membership events (every other member's with versions, in any order, with repeats and garbage) from a topic of Apache
# Kafka into the log of one node, which finds them there: until the stored offsets are the ends of the partitions. The node's
# index and read models follow meanwhile, on the same processors. While the messages are sent the node's process is stopped:
# a sender on the same processors would be measured with it (--beside: it is, from the first message that is sent).
#
# B: a bare rdkafka poll loop, and each 2,000 messages inserted by one statement into a plain table with a primary key on
# where they came from, and committed: the same messages, once A has them and the read models have caught up. Neither finds
# anything of the other's that PostgreSQL has still to write.
#
# In turn, round by round. A meets its target with 20,000 events a second, or with half of what B reaches. The node's memory
# is printed after each round: it is to be flat, for it is the same members that are spoken of in each. And the processors'
# time that an event took, which the machine's other work changes less than the rate.

bench() {
    local rounds=5 events=200000 members=5000 beside=()
    while [ $# -gt 0 ]; do
        case $1 in
        --rounds | --events | --members)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || intake_usage
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --beside)
            beside=(--beside)
            shift
            ;;
        *) intake_usage ;;
        esac
    done
    local missing
    if [ -z "${TEST_KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        mapfile -t missing < <(missing_for_kafka)
        install_packages "${missing[@]}" || fail "Apache Kafka needs packages that are not there"
        "$root/scripts/kafka" prepare || fail "Apache Kafka can't be had here"
        exec "$root/scripts/kafka" run -- "$root/scripts/bench" intake --rounds "$rounds" --events "$events" \
            --members "$members" "${beside[@]}"
    fi
    have psql || install_packages postgresql-client || fail "no psql"
    build
    cargo build --manifest-path "$root/Cargo.toml" --release --locked -p bench --bin membership || fail "it does not build"
    membership=${binary%/*}/membership
    # The topic has to be there for a node to get ready: Kafka makes it when it is asked for by somebody who writes.
    "$membership" send --seed 0 --members 1 --events 0 --kafka "$TEST_KAFKA_BOOTSTRAP_SERVERS" --topic featbit-membership >/dev/null
    # Lag is no matter here: a node that is behind denies, and takes events all the same.
    # And while it is stopped it stays in its group.
    KAFKA_PROPERTY_SESSION_TIMEOUT_MS=60000 start_node --kafka-bootstrap "$TEST_KAFKA_BOOTSTRAP_SERVERS"
    local round begin sent from a_ms node_us postgres_us copied b_ms a b memory verdict
    : >"$work/rounds"
    for ((round = 0; round <= rounds; round++)); do
        begin=$(stored_offsets)
        from=$(sql <<<"select string_agg(partition || ':' || next_offset, ',') from kafka_offsets where topic = '$TOPIC'")
        sql <<<checkpoint
        node_us=$(node_cpu_ms) postgres_us=$(postgres_cpu_ms)
        [ "${#beside[@]}" -gt 0 ] || kill -STOP "$node"
        a_ms=$(date +%s%3N)
        sent=$("$membership" send --seed "$round" --people 0 --first $((round * 1000000)) --members "$members" \
            --events "$events" --kafka "$KAFKA" --topic "$TOPIC")
        if [ "${#beside[@]}" -eq 0 ]; then
            a_ms=$(date +%s%3N)
            kill -CONT "$node"
        fi
        wait_for_offsets $((begin + sent))
        a_ms=$(($(date +%s%3N) - a_ms))
        wait_for_read_models
        node_us=$((($(node_cpu_ms) - node_us) * 1000 / sent)) postgres_us=$((($(postgres_cpu_ms) - postgres_us) * 1000 / sent))
        sql <<<checkpoint
        read -r copied b_ms < <("$membership" copy --database-url "$DATABASE_URL" --kafka "$KAFKA" --topic "$TOPIC" --from "$from")
        [ "$copied" -ge "$sent" ] || fail "only $copied of $sent messages were copied"
        sql <<<"drop table raw_messages"
        a=$((sent * 1000 / a_ms)) b=$((copied * 1000 / b_ms))
        memory=$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$node/status")
        say "round $round: A $a/s, B $b/s, $(awk "BEGIN { printf \"%.3f\", $a / $b }"); an event took $node_us us of the node and $postgres_us us of PostgreSQL; the node has $memory MiB$([ "$round" -gt 0 ] || echo ' (to warm up)')"
        if [ "$round" -gt 0 ]; then awk "BEGIN { print $a, $b, $a / $b, $memory, $node_us, $postgres_us }" >>"$work/rounds"; fi
    done
    printf '%-55s %9s %9s %9s\n' '' min median max
    printf '%-55s %9s %9s %9s\n' "A  membership events, a second" $(cut -d ' ' -f 1 "$work/rounds" | spread %.0f) \
        "B  raw batched inserts of the same messages, a second" $(cut -d ' ' -f 2 "$work/rounds" | spread %.0f) \
        "A/B, round by round" $(cut -d ' ' -f 3 "$work/rounds" | spread %.3f) \
        "memory of the node, MiB" $(cut -d ' ' -f 4 "$work/rounds" | spread %.0f) \
        "CPU an event, us: the node" $(cut -d ' ' -f 5 "$work/rounds" | spread %.0f) \
        "                  PostgreSQL" $(cut -d ' ' -f 6 "$work/rounds" | spread %.0f)
    read -r _ a _ < <(cut -d ' ' -f 1 "$work/rounds" | spread %.0f)
    read -r _ b _ < <(cut -d ' ' -f 3 "$work/rounds" | spread %.3f)
    verdict=$(awk "BEGIN { print ($a >= 20000 || $b >= 0.5) ? \"PASS\" : \"FAIL\" }")
    echo "target: 20,000 events a second, or half of what raw inserts reach: $verdict ($a/s, $b)"
    [ "$verdict" = PASS ] || exit "$not_met_status"
}

intake_usage() {
    sed -n -e '1d' -e '/^$/q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

stored_offsets() { sql <<<"select coalesce(sum(next_offset), 0) from kafka_offsets where topic = '$TOPIC'"; }

# By one connection: to open one for each look takes a tenth of what is measured.
wait_for_offsets() { # SUM
    sql >/dev/null <<SQL
do \$\$ begin
    while (select coalesce(sum(next_offset), 0) < $1 from kafka_offsets where topic = '$TOPIC') loop
        perform pg_sleep(0.05);
        -- holds up no clearing away
        commit;
    end loop;
end \$\$
SQL
}

wait_for_read_models() {
    local head tenths
    head=$(sql <<<"select max(position) from events")
    for ((tenths = 0; tenths < 3000; tenths++)); do
        if [ "$(sql <<<"select min(position) from read_models")" -ge "$head" ]; then return; fi
        sleep 0.1
    done
    fail "the read models have not caught up within 300 s"
}
