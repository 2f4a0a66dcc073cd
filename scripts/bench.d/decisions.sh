# shellcheck shell=bash disable=SC2154
# scripts/bench decisions [--rounds N] [--seconds S] [--connections N] [--tokens N] [--organizations N] [--cedar yes|no]
#
# evaluation   POST /access/v1/evaluation of a node with a thousand tokens, beside echo: axum that parses the same body and
#              answers a constant
# forward      GET /forward-auth of the same node, beside hello: axum's smallest, sent the same request
# million      evaluation of a node with a million tokens of five hundred organizations, made through the appender
# busy         evaluation of the small node while a hundred tokens a second are created and a hundred revoked
#
# All in one run, in turn, round by round, by the same client with as many connections, secrets of all organizations in turn.
# What comes first in a round moves on with each. Ratios are taken within a round; the median of them counts. Then what a
# million tokens cost in memory and how long a node takes to start from them, and one decision beside cedar-policy's.
#
# wrk shares the processors with what it measures, in every part alike. On a machine on which others work the ratios of CPU
# a request say more; they are shown beside.

bench() {
    local rounds=8 seconds=3 connections=32 tokens=1000000 organizations=500 cedar=yes
    while [ $# -gt 0 ]; do
        case $1 in
        --rounds | --seconds | --connections | --tokens | --organizations)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || decisions_usage
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --cedar)
            [[ ${2:-} =~ ^(yes|no)$ ]] || decisions_usage
            cedar=$2
            shift 2
            ;;
        *) decisions_usage ;;
        esac
    done
    local missing
    mapfile -t missing < <(missing_for_decisions)
    install_packages "${missing[@]}" || fail "the packages this needs are not all there"
    build
    say "building what it is held against"
    cargo build --manifest-path "$root/Cargo.toml" --release --locked -p bench || fail "it does not build"
    tools=$(dirname "$binary")
    # For its PostgreSQL; the nodes that are measured are others, on databases of their own.
    start_node
    prepare_decisions "$tokens" "$organizations"

    say "$rounds rounds of $seconds s each, $connections connections, after one to warm up"
    local round kinds=(evaluation echo forward hello million busy)
    run_round warm "$seconds" "$connections" "${kinds[@]}"
    : >"$work/rounds"
    for ((round = 1; round <= rounds; round++)); do
        kinds=("${kinds[@]:1}" "${kinds[0]}")
        run_round "$round" "$seconds" "$connections" "${kinds[@]}"
    done
    report_decisions
    start_of_a_million || not_met=yes
    if [ "$cedar" = yes ]; then beside_cedar || not_met=yes; fi
    [ -z "${not_met:-}" ] || exit "$not_met_status"
}

decisions_usage() {
    sed -n -e '1d' -e '/^$/q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

missing_for_decisions() {
    have wrk || echo wrk
    have psql || echo postgresql-client
    have curl || echo curl
}

# The database of this name in the same cluster.
database() { sed "s|/[^/?]*\(?.*\)\{0,1\}\$|/$1\1|" <<<"$DATABASE_URL"; }

# Databases `thousand` and `million`, and a node on each.
prepare_decisions() { # TOKENS ORGANIZATIONS
    local name
    for name in thousand million; do
        sql <<<"create database $name"
    done
    say "making a thousand tokens, and then $1"
    "$tools/fill" --database-url "$(database thousand)" --organizations 5 --tokens 1000 \
        --secrets "$work/thousand.secrets" || fail "the small installation was not made"
    "$tools/fill" --database-url "$(database million)" --organizations "$2" --tokens "$1" \
        --secrets "$work/million.secrets" || fail "the large installation was not made"
    say "how a node starts from that"
    "$tools/start" --database-url "$(database million)" >"$work/start" || true
    trap 'stop_decisions; stop_node' EXIT
    servers=()
    start_server thousand
    start_server million
    "$tools/reference" --http 127.0.0.1:0 >"$work/reference" &
    servers+=($!)
    for ((tenths = 0; tenths < ready_limit_s * 10; tenths++)); do
        if [ -s "$work/reference" ]; then break; fi
        sleep 0.1
    done
    reference_url=$(cat "$work/reference")
    reference_pid=${servers[-1]}
}

# A node on a database. Sets NAME_url and NAME_pid.
start_server() { # NAME
    local tenths address
    : >"$work/$1.log"
    HTTP_ADDR=127.0.0.1:0 DATABASE_URL=$(database "$1") RUST_LOG=featbit_tokens=info,warn LOG_FORMAT=json \
        JWT_KEY=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n') \
        "$binary" serve >"$work/$1.log" 2>&1 </dev/null &
    servers+=($!)
    printf -v "$1_pid" %s $!
    for ((tenths = 0; tenths < ready_limit_s * 10; tenths++)); do
        kill -0 "${servers[-1]}" 2>/dev/null || break
        address=$(sed -n 's/.*"address":"\([0-9.:]*\)".*/\1/p' "$work/$1.log" | head -n 1)
        if [ -n "$address" ] && curl -sf "http://$address/health/readiness" >/dev/null; then
            printf -v "$1_url" %s "http://$address"
            may_toggle "http://$address" "$work/$1.secrets"
            return
        fi
        sleep 0.1
    done
    tail -n 20 "$work/$1.log" >&2
    fail "the node on $1 did not get ready"
}

# What is measured is decisions that allow.
may_toggle() { # URL SECRETS
    local secret said
    secret=$(head -n 1 "$2" | cut -d ' ' -f 1)
    said=$(curl -s "$1/access/v1/evaluation" -H 'Content-Type: application/json' -d '{"subject":{"type":"access_token","id":"'"$secret"'"},
        "action":{"name":"ToggleFlag"},"resource":{"type":"flag","id":"project/web:env/prod:flag/dark-mode;beta,team-a"}}')
    [[ $said == '{"decision":true'* ]] || fail "a token of $1 may not toggle: $said"
}

stop_decisions() {
    local pid
    for pid in "${servers[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${servers[@]}"; do wait "$pid" 2>/dev/null || true; done
    servers=()
}

# One line in `rounds`: each kind's rate, 99th percentile in microseconds and CPU a request in microseconds, by name.
run_round() { # ROUND SECONDS CONNECTIONS KIND...
    local round=$1 seconds=$2 connections=$3 kind line=""
    shift 3
    for kind in "$@"; do
        case $kind in
        evaluation) load evaluation "$thousand_url/access/v1/evaluation" thousand "$thousand_pid" ;;
        echo) load evaluation "$reference_url/echo" thousand "$reference_pid" ;;
        forward) load forward "$thousand_url/forward-auth" thousand "$thousand_pid" ;;
        hello) load forward "$reference_url/hello" thousand "$reference_pid" ;;
        million) load evaluation "$million_url/access/v1/evaluation" million "$million_pid" ;;
        busy)
            "$tools/churn" --database-url "$(database thousand)" --rate 100 --seconds "$((seconds + 1))" >"$work/churn" &
            churn=$!
            sleep 0.5
            load evaluation "$thousand_url/access/v1/evaluation" thousand "$thousand_pid"
            wait "$churn" || fail "tokens could not be created and revoked: $(cat "$work/churn")"
            ;;
        esac
        line+="$kind $rate $p99 $cpu_us "
    done
    if [ "$round" != warm ]; then
        echo "$line" >>"$work/rounds"
        say "round $round: $line"
    fi
}

# Sets rate (requests a second), p99 (microseconds) and cpu_us (of the server, a request).
load() { # KIND URL SECRETS PID
    local answered refused broken took p50 used
    used=$(cpu_ms "$4")
    wrk --threads 1 --connections "$connections" --duration "${seconds}s" --timeout 10s \
        --script "$root/scripts/bench.d/decisions.lua" "$2" -- "$1" "$work/$3.secrets" >"$work/wrk" ||
        fail "wrk failed: $(cat "$work/wrk")"
    used=$(($(cpu_ms "$4") - used))
    read -r answered refused broken took p50 p99 < <(sed -n 's/^wrk //p' "$work/wrk")
    [ "$((refused + broken))" -eq 0 ] || fail "$2: $refused refused, $broken had no answer: $(cat "$work/wrk")"
    rate=$(awk "BEGIN { printf \"%.0f\", $answered / $took }")
    cpu_us=$(awk "BEGIN { printf \"%.2f\", $used * 1000 / $answered }")
}

# A value of a kind in each round: 1 the rate, 2 the 99th percentile, 3 CPU a request.
of_kind() { # KIND NTH
    awk -v kind="$1" -v nth="$2" '{ for (i = 1; i <= NF; i++) if ($i == kind) print $(i + nth) }' "$work/rounds"
}

# The ratios of two kinds, round by round.
ratios() { # KIND OTHER NTH
    paste <(of_kind "$1" "$3") <(of_kind "$2" "$3") | awk '{ print $1 / $2 }'
}

report_decisions() {
    local kind
    printf '%-58s %9s %9s %9s\n' "" min median max
    for kind in evaluation echo forward hello million busy; do
        # shellcheck disable=SC2046
        {
            printf '%-58s %9s %9s %9s\n' "$kind: answers a second" $(of_kind "$kind" 1 | spread %.0f)
            printf '%-58s %9s %9s %9s\n' "   99 % take at most, us" $(of_kind "$kind" 2 | spread %.0f)
            printf '%-58s %9s %9s %9s\n' "   CPU of the server an answer, us" $(of_kind "$kind" 3 | spread %.1f)
        }
    done
    judge evaluation echo 1 '>=' 0.85 "evaluation beside echo, rate"
    judge forward hello 1 '>=' 0.75 "forward auth beside hello, rate"
    judge evaluation echo 2 '<=' 1.5 "evaluation beside echo, 99th percentile"
    judge forward hello 2 '<=' 1.5 "forward auth beside hello, 99th percentile"
    judge million evaluation 1 '>=' 0.9 "a million tokens beside a thousand, rate"
    judge busy evaluation 1 '>=' 0.95 "while 100 tokens a second are created and 100 revoked, rate"
}

judge() { # KIND OTHER NTH COMPARISON TARGET WHAT
    local low ratio high by_cpu
    read -r low ratio high < <(ratios "$1" "$2" "$3" | spread %.3f)
    by_cpu=$(ratios "$2" "$1" 3 | spread %.3f | cut -d ' ' -f 2)
    if awk "BEGIN { exit !($ratio $4 $5) }"; then
        printf 'PASS'
    else
        printf 'FAIL'
        not_met=yes
    fi
    printf ': %s: %s (%s to %s; target %s %s)' "$6" "$ratio" "$low" "$high" "$4" "$5"
    [ "$3" -ne 1 ] || printf '; by the servers'"'"' CPU alone %s' "$by_cpu"
    printf '\n'
}

start_of_a_million() {
    cat "$work/start"
    ! grep -q '^FAIL\|^error' "$work/start"
}

# The time of one decision, ours and cedar's, as criterion has them.
beside_cedar() {
    local target ours theirs
    say "a decision beside cedar-policy; building that takes some minutes the first time"
    target=${CARGO_TARGET_DIR:-$root/target}/cedar
    CARGO_TARGET_DIR=$target cargo bench --manifest-path "$root/bench/cedar/Cargo.toml" --locked >"$work/cedar" 2>&1 ||
        fail "the comparison with cedar-policy failed: $(tail -n 5 "$work/cedar")"
    ours=$(estimate "$target" ours)
    theirs=$(estimate "$target" cedar)
    awk -v ours="$ours" -v theirs="$theirs" 'BEGIN {
        met = ours * 20 <= theirs
        printf "%s: a decision by twenty statements: %.0f ns, cedar-policy %.0f ns: %.4f of it (target <= 0.05)\n",
            met ? "PASS" : "FAIL", ours, theirs, ours / theirs
        exit !met }'
}

estimate() { # TARGET NAME
    grep -o '"median":{[^}]*}[^}]*' "$1/criterion/$2/new/estimates.json" |
        grep -o '"point_estimate":[0-9.]*' | head -n 1 | cut -d : -f 2
}
