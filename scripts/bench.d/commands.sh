# shellcheck shell=bash disable=SC2154
# scripts/bench commands [--rounds N] [--seconds S] [--clients N] [--organizations N]
#
# A: concurrent POST /api/v1/access-tokens over loopback by wrk, keep-alive, personal and service tokens in turn, every
# name new, spread over many organizations, each answered only when it stands in the log and in the node's own index.
#
# B: raw single-row committed inserts of the same bytes by pgbench: prepared statements over loopback, each row with all
# the columns of `events`, its payload, metadata and the rest copied from events that A wrote; a plain table with a primary
# key on a running number, no other index, no trigger, no function; each insert a transaction. That is the least a program
# can do to put those bytes into PostgreSQL for good. (`events` has three indexes, and a creation also reserves its name:
# A pays for that, B does not.)
#
# Both in turn, round by round, with as many clients, in the same database, on the same processors, the load generators
# too. Before each B the read models have caught up, so that B does not pay for A's.
#
# Default durability: dev's cluster has fsync, synchronous_commit and full_page_writes on, which this looks at.
#
# wrk, because the load generator's CPU is taken from what it measures: it is C on epoll, with nothing to allocate or
# schedule a request, and took less than a fiftieth of what a creation took, about as much as pgbench takes an insert.

bench() {
    local rounds=8 seconds=5 clients=32 organizations=100
    while [ $# -gt 0 ]; do
        case $1 in
        --rounds | --seconds | --clients | --organizations)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || commands_usage
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        *) commands_usage ;;
        esac
    done
    local missing
    mapfile -t missing < <(missing_for_commands)
    install_packages "${missing[@]}" || fail "the packages this needs are not all there"
    build
    pgbench=$(postgres_program pgbench)
    # So many that the limit does not come into it; each has about as many as one that is allowed 2,000.
    MAX_TOKENS_PER_ORGANIZATION=1000000 start_node
    prepare_commands "$organizations"
    say "$rounds rounds of $seconds s each, $clients clients, $organizations organizations, after one to warm up"
    local round
    : >"$work/rounds"
    run_a "$seconds" "$clients" warm
    take_row
    run_b "$seconds" "$clients"
    for ((round = 1; round <= rounds; round++)); do
        # Whoever comes second finds the machine as the first has left it: in turn.
        if ((round % 2)); then
            run_a "$seconds" "$clients" "r$round"
            run_b "$seconds" "$clients"
        else
            run_b "$seconds" "$clients"
            run_a "$seconds" "$clients" "r$round"
        fi
        awk "BEGIN { print $a_rate / $b_rate, $a_rate, $b_rate, $a_p50, $a_p99, $a_node, $a_postgres, $a_client, \
            $b_postgres, $b_client, $a_behind, $a_others, $b_others, \
            ($b_postgres + $b_client) / ($a_node + $a_postgres + $a_client) }" >>"$work/rounds"
        say "round $round: A $a_rate/s, B $b_rate/s, A/B $(tail -n 1 "$work/rounds" | cut -d ' ' -f 1); others took $a_others % and $b_others %"
    done
    report_commands
}

commands_usage() {
    sed -n -e '1d' -e '/^$/q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

missing_for_commands() {
    have wrk || echo wrk
    have psql || echo postgresql-client
}

# The organizations, with the demo's developer as a member of each, by membership events like any other.
prepare_commands() { # ORGANIZATIONS
    local off tenths joined
    off=$(sql <<<"select name from pg_settings where setting <> 'on'
        and name in ('fsync', 'synchronous_commit', 'full_page_writes')")
    [ -z "$off" ] || fail "not the default durability: $off is not on"
    say "PostgreSQL $(sql <<<'show server_version'), its data on $(stat -f -c %T "$work")"
    sql -v organizations="$1" >"$work/organizations" <<<"select gen_random_uuid() from generate_series(1, :organizations)"
    sql -v organizations="{$(paste -sd , "$work/organizations")}" -v member="$DEVELOPER" <<'SQL' |
select o || ':' || :'member' || '|' || jsonb_build_object(
    'specversion', '1.0', 'id', o, 'source', '/bench', 'type', 'featbit.membership.MemberAdded',
    'data', jsonb_build_object('organizationId', o, 'memberId', :'member', 'name', 'Dana Developer',
        'email', 'developer@bench.example', 'statements', payload->'statements'))
from unnest(:'organizations'::uuid[]) o, events
where aggregate_type = 'member' and aggregate_id like '%:' || :'member' and sequence = 1;
SQL
        kcat -P -b "$KAFKA" -t "$TOPIC" -K '|'
    for ((tenths = 0; tenths < ready_limit_s * 10; tenths++)); do
        joined=$(sql -v organizations="{$(paste -sd , "$work/organizations")}" <<<"select count(*) from members
            where is_member and organization_id = any(:'organizations'::uuid[])")
        if [ "$joined" -eq "$1" ]; then return; fi
        sleep 0.1
    done
    fail "only $joined of $1 organizations have their member"
}

# Sets a_rate, a_p50 and a_p99 in milliseconds, CPU per creation in microseconds by process (a_node, a_postgres,
# a_client), a_behind: how long, in seconds, the read models took to catch up when it had ended, and a_others: the share of
# the processors, in percent, that processes of others had.
run_a() { # SECONDS CLIENTS PREFIX
    local organizations before after created answered refused broken took p50 p99 node_ms postgres_ms machine_ms TIMEFORMAT='%3U %3S'
    mapfile -t organizations <"$work/organizations"
    before=$(created_tokens)
    node_ms=$(node_cpu_ms)
    postgres_ms=$(postgres_cpu_ms)
    machine_ms=$(machine_cpu_ms)
    { time wrk --threads 1 --connections "$2" --duration "${1}s" --timeout 10s \
        --script "$root/scripts/bench.d/commands.lua" "$URL/api/v1/access-tokens" \
        -- "$DEVELOPER_JWT" "$3-" "${organizations[@]}" >"$work/wrk"; } 2>"$work/client" ||
        fail "wrk failed: $(cat "$work/wrk")"
    machine_ms=$(($(machine_cpu_ms) - machine_ms))
    catch_up
    node_ms=$(($(node_cpu_ms) - node_ms))
    postgres_ms=$(($(postgres_cpu_ms) - postgres_ms))
    read -r answered refused broken took p50 p99 < <(sed -n 's/^wrk //p' "$work/wrk")
    [ "$((refused + broken))" -eq 0 ] || fail "$refused creations were refused, $broken had no answer: $(cat "$work/wrk")"
    # wrk walks off at the end without the last answers.
    after=$(created_tokens)
    created=$((after - before))
    [ "$created" -ge "$answered" ] && [ "$created" -le "$((answered + $2))" ] ||
        fail "$answered creations were answered, and $created stand in the log"
    a_rate=$(awk "BEGIN { printf \"%.1f\", $answered / $took }")
    a_p50=$(awk "BEGIN { printf \"%.1f\", $p50 / 1000 }")
    a_p99=$(awk "BEGIN { printf \"%.1f\", $p99 / 1000 }")
    a_node=$((node_ms * 1000 / created))
    a_postgres=$((postgres_ms * 1000 / created))
    a_client=$(client_us "$answered")
    a_others=$(others "$1" "$machine_ms" $((node_ms + postgres_ms)))
}

created_tokens() { sql <<<"select count(*) from events where event_type = 'access_token.created'"; }

# Waits until every follower of the log has come to its end. Sets a_behind.
catch_up() {
    local tenths
    for ((tenths = 0; tenths < ready_limit_s * 10; tenths++)); do
        if [ "$(sql <<<"select min(position) >= (select max(position) from events)
            from (select position from read_models union all select position from checkpoints) followers")" = t ]; then
            a_behind=$((tenths / 10)).$((tenths % 10))
            return
        fi
        sleep 0.1
    done
    fail "the read models do not catch up"
}

# Two rows for B, of a personal and of a service token, as A has just written them.
take_row() {
    local type
    sql <<'SQL'
create table raw_inserts (
    number          bigint      generated always as identity primary key,
    aggregate_type  text        not null,
    aggregate_id    text        not null,
    sequence        bigint      not null,
    event_type      text        not null,
    event_version   text        not null,
    payload         json        not null,
    metadata        json        not null,
    organization_id uuid        not null,
    recorded_at     timestamptz not null,
    hash            bytea       not null,
    command_id      uuid
);
alter table raw_inserts alter column payload set storage external;
alter table raw_inserts alter column metadata set storage external;
SQL
    row_arguments=()
    for type in Personal Service; do
        row_arguments+=(-f "$work/$type.sql")
        sed "s/@/${type,,}/g" >"$work/$type.sql" <<'SQL'
insert into raw_inserts (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, organization_id, recorded_at, hash, command_id) values ('access_token', :@_aggregate_id, 1, 'access_token.created', :@_event_version, :@_payload, :@_metadata, :@_organization_id, clock_timestamp(), :@_hash, :@_command_id)
SQL
        local column
        for column in aggregate_id event_version payload metadata organization_id hash command_id; do
            row_arguments+=(-D "${type,,}_$column=$(sql -v type="$type" <<<"select $column from events
                where event_type = 'access_token.created' and payload->>'tokenType' = :'type' order by position limit 1")")
        done
    done
}

# Sets b_rate, CPU per insert in microseconds by process (b_postgres, b_client), and b_others as a_others.
run_b() { # SECONDS CLIENTS
    local inserted postgres_ms machine_ms TIMEFORMAT='%3U %3S'
    postgres_ms=$(postgres_cpu_ms)
    machine_ms=$(machine_cpu_ms)
    { time "$pgbench" --no-vacuum --protocol prepared --client "$2" --jobs "$((clients > 1 ? 2 : 1))" --time "$1" \
        "${row_arguments[@]}" "$DATABASE_URL" >"$work/pgbench" 2>&1; } 2>"$work/client" ||
        fail "pgbench failed: $(cat "$work/pgbench")"
    machine_ms=$(($(machine_cpu_ms) - machine_ms))
    # What a connection's process has used counts when it has ended.
    while [ "$(sql <<<"select count(*) from pg_stat_activity where application_name = 'pgbench'")" -gt 0 ]; do sleep 0.1; done
    sleep 0.2
    postgres_ms=$(($(postgres_cpu_ms) - postgres_ms))
    inserted=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/pgbench")
    b_rate=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$work/pgbench" | awk '{ printf "%.1f", $1 }')
    [ -n "$inserted" ] && [ -n "$b_rate" ] || fail "pgbench said: $(cat "$work/pgbench")"
    b_postgres=$((postgres_ms * 1000 / inserted))
    b_client=$(client_us "$inserted")
    b_others=$(others "$1" "$machine_ms" "$postgres_ms")
}

client_us() { awk -v n="$1" '{ printf "%d", ($1 + $2) * 1000000 / n }' "$work/client"; }

others() { # SECONDS MACHINE_MS OURS_MS
    awk -v seconds="$1" -v machine="$2" -v ours="$3" -v processors="$(nproc)" '{
        share = (machine - ours - ($1 + $2) * 1000) / (seconds * processors * 10)
        printf "%d", share < 0 ? 0 : share }' "$work/client"
}

report_commands() {
    local ratio
    column() { cut -d ' ' -f "$1" "$work/rounds" | spread "$2"; }
    row() { printf '%-58s %9s %9s %9s\n' "$@"; }
    row "" min median max
    # shellcheck disable=SC2046
    {
        row "A  creations answered, a second" $(column 2 %.0f)
        row "   latency of a creation, ms: half are below" $(column 4 %.1f)
        row "   latency of a creation, ms: 99 % are below" $(column 5 %.1f)
        row "   read models caught up after the load, s" $(column 11 %.1f)
        row "   CPU a creation, us: the node" $(column 6 %.0f)
        row "                       PostgreSQL" $(column 7 %.0f)
        row "                       wrk" $(column 8 %.0f)
        row "B  raw single-row committed inserts, a second" $(column 3 %.0f)
        row "   CPU an insert, us:  PostgreSQL" $(column 9 %.0f)
        row "                       pgbench" $(column 10 %.0f)
        row "processors that others had meanwhile, %: during A" $(column 12 %.0f)
        row "                                         during B" $(column 13 %.0f)
        row "B/A by CPU: the ratio were that the only limit" $(column 14 %.3f)
        row "A/B, round by round" $(column 1 %.3f)
    }
    printf 'On a busy machine B gets a larger share of it, one process for each client, where A has few.\n'
    printf 'wrk and pgbench share the processors with what they measure; nothing is corrected for that.\n'
    ratio=$(column 1 %.3f | cut -d ' ' -f 2)
    printf 'target: concurrent creates reach at least half the rate of raw single-row committed inserts: '
    if awk "BEGIN { exit !($ratio >= 0.5) }"; then
        printf 'PASS (%s)\n' "$ratio"
    else
        printf 'FAIL (%s)\n' "$ratio"
        exit "$not_met_status"
    fi
}
