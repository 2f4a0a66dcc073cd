-- One kind of request by the secrets of a file, in turn: wrk --script decisions.lua URL -- KIND FILE
--   evaluation   POST, the AuthZEN body
--   forward      GET, what a gateway sends
-- Each is put together once, so that the client has little to do. Ends with a line: wrk ANSWERED REFUSED BROKEN SECONDS P50
-- P99, the last two in microseconds.

local action, resource = "ToggleFlag", "project/web:env/prod:flag/dark-mode;beta,team-a"
local requests, nth = {}, 0

function init(args)
    local kind, file = args[1], args[2]
    for line in io.lines(file) do
        local secret = line:match("^(%S+)")
        if kind == "evaluation" then
            local body = string.format(
                '{"subject":{"type":"access_token","id":"%s"},"action":{"name":"%s"},"resource":{"type":"flag","id":"%s"}}',
                secret, action, resource)
            requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
        else
            requests[#requests + 1] = wrk.format("GET", nil, {
                ["Authorization"] = secret,
                ["X-FeatBit-Action"] = action,
                ["X-FeatBit-Resource"] = resource,
            })
        end
    end
end

function request()
    nth = nth % #requests + 1
    return requests[nth]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("wrk %d %d %d %.3f %d %d\n", summary.requests, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
        latency:percentile(50), latency:percentile(99)))
end
