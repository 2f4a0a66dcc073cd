-- What scripts/bench gives wrk: POST /api/v1/access-tokens, every body with a name of its own, personal and service in
-- turn, over many organizations.
--
--   arguments: JWT, a prefix for the names, and the organizations, one uuid each

-- wrk has one Lua state per thread; scripts/bench runs one thread.
local headers, prefix, organizations, made = {}, "", {}, 0

local personal = '{"name":"%s","type":"Personal","description":"the laptop of somebody in the web team"}'
local service = '{"name":"%s","type":"Service","description":"deploys the web shop","permissions":['
  .. '{"resourceType":"flag","effect":"allow","actions":["UpdateFlagName","UpdateFlagDescription","ToggleFlag"],'
  .. '"resources":["project/web:env/prod:flag/*","project/web:env/staging:flag/*"]},'
  .. '{"resourceType":"segment","effect":"allow","actions":["*"],"resources":["project/web:env/staging:segment/*"]}]}'

function init(arguments)
  prefix = arguments[2]
  for n = 3, #arguments do
    organizations[n - 2] = {
      ["Authorization"] = "Bearer " .. arguments[1],
      ["Content-Type"] = "application/json",
      ["Organization"] = arguments[n],
    }
  end
end

function request()
  made = made + 1
  local body = made % 2 == 0 and personal or service
  return wrk.format("POST", nil, organizations[made % #organizations + 1], body:format(prefix .. made))
end

-- One line for scripts/bench: answers of 200, other answers, broken connections and timeouts, seconds, and the 50th and
-- 99th percentile of the latency in microseconds.
function done(summary, latency)
  local errors = summary.errors
  io.write(("wrk %d %d %d %.3f %d %d\n"):format(
    summary.requests - errors.status, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
