-- A circuit breaker for Envoy's Lua filter, of the same kind as the module's: closed, open, half-open, by the share of
-- failures in a sliding window. Each worker has its own: workers share nothing in Lua.

local WINDOW = 10 -- seconds, and so many buckets
local MIN_REQUESTS = 20
local FAILURE_RATE = 0.5
local OPEN_FOR = 30 -- seconds
local PROBES = 5
local LEASE = 10 -- seconds, after which probes whose clients left are sent again

local CLOSED, OPEN, HALF_OPEN = 0, 1, 2

local state = CLOSED
local open_until, probes_until = 0, 0
local probes_sent, probes_judged = 0, 0

-- The bucket of a second holds its outcomes while it bears that second's stamp.
local stamps, totals, failures = {}, {}, {}
for i = 1, WINDOW do
  stamps[i], totals[i], failures[i] = 0, 0, 0
end

local function count(now, failed)
  local i = now % WINDOW + 1
  if stamps[i] ~= now then
    stamps[i], totals[i], failures[i] = now, 0, 0
  end
  totals[i] = totals[i] + 1
  if failed then
    failures[i] = failures[i] + 1
  end
end

local function is_too_bad(now)
  local total, failed = 0, 0
  for i = 1, WINDOW do
    if now - stamps[i] < WINDOW then
      total, failed = total + totals[i], failed + failures[i]
    end
  end
  return total >= MIN_REQUESTS and failed >= total * FAILURE_RATE
end

local function open(now)
  state, open_until = OPEN, now + OPEN_FOR
end

local function close()
  state = CLOSED
  for i = 1, WINDOW do
    stamps[i] = 0
  end
end

local function probe(now)
  state, probes_until = HALF_OPEN, now + LEASE
  probes_sent, probes_judged = 0, 0
end

local function reject(handle, now)
  local wait = tostring(math.max(1, open_until - now))
  handle:respond({ [":status"] = "503", ["retry-after"] = wait, ["x-breaker"] = "open" }, "")
end

function envoy_on_request(handle)
  if state == CLOSED then
    return
  end
  local now = os.time()
  if state == OPEN then
    if now < open_until then
      reject(handle, now)
      return
    end
    probe(now)
  elseif now >= probes_until then
    probe(now)
  end
  if probes_sent >= PROBES then
    reject(handle, now)
    return
  end
  probes_sent = probes_sent + 1
end

function envoy_on_response(handle)
  if state == OPEN then
    return
  end
  local headers = handle:headers()
  local failed = tonumber(headers:get(":status")) >= 500
  local now = os.time()
  if state == CLOSED then
    count(now, failed)
    if failed and is_too_bad(now) then
      open(now)
    end
  elseif headers:get("x-breaker") == nil then
    if failed then
      open(now)
      return
    end
    probes_judged = probes_judged + 1
    if probes_judged >= PROBES then
      close()
    end
  end
end
