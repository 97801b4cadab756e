-- The load of a closed-loop run, for wrk: one thread, any number of connections.
--
-- Sends orders for as long as ORDERS_SECONDS says, then lets what is in flight be answered: a connection whose turn comes
-- later gets an empty request, which parks it. So every order that was sent has its answer before wrk hangs up, and the
-- ids that were answered can be compared with the ids that are stored. "all answered" on standard output tells that
-- there is nothing left to wait for.
--
-- ORDERS_BODIES   a file, one request body a line
-- ORDERS_IDS      where the ids of the 2xx answers go, one a line
-- ORDERS_SUMMARY  where the figures go, one "name value" a line
-- ORDERS_MOST     end early after so many requests; 0: do not
-- ORDERS_KEYED    not empty: each request has an Idempotency-Key of its own, a UUIDv7
-- ORDERS_PATH     the path that orders are posted to
-- ORDERS_CANCELLED  the share of orders that are cancelled: the next request after their 2xx, whichever connection sends it
-- ORDERS_CANCELS  where the ids of the cancellations that were answered 2xx go, one a line

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long s; long ns; } bench_time;
int clock_gettime(int, bench_time *);
]]
local CLOCK_REALTIME = 0

local time = ffi.new("bench_time")
local function now()
    ffi.C.clock_gettime(CLOCK_REALTIME, time)
    return tonumber(time.s) + tonumber(time.ns) / 1e9
end

-- ── in the thread that sends

local seconds = tonumber(os.getenv("ORDERS_SECONDS"))
local most = tonumber(os.getenv("ORDERS_MOST"))
local keyed = (os.getenv("ORDERS_KEYED") or "") ~= ""
local path = os.getenv("ORDERS_PATH")
local share = tonumber(os.getenv("ORDERS_CANCELLED") or "0")
local bodies, requests, ids, cancels = {}, {}, nil, nil
local to_cancel, owed = {}, 0
local next_request, started, deadline = 0, nil, nil

-- Read by done(), which runs in another Lua state. `sent` begins below 0: wrk asks for one request to look at it.
sent, answered, refused, failed, first_refusal, first_s, last_s = -1, 0, 0, 0, "", 0, 0

local headers = { ["Content-Type"] = "application/json" }

local function uuid7()
    local ms = math.floor(now() * 1000)
    return string.format("%08x-%04x-7%03x-8%03x-%06x%06x", math.floor(ms / 65536), ms % 65536,
        math.random(0, 0xfff), math.random(0, 0xfff), math.random(0, 0xffffff), math.random(0, 0xffffff))
end

function init()
    for body in io.lines(os.getenv("ORDERS_BODIES")) do
        bodies[#bodies + 1] = body
        requests[#requests + 1] = wrk.format("POST", path, headers, body)
    end
    ids = io.open(os.getenv("ORDERS_IDS"), "w")
    ids:setvbuf("full", 1048576)
    cancels = io.open(os.getenv("ORDERS_CANCELS"), "w")
    math.randomseed(os.time())
end

function request()
    sent = sent + 1
    if #to_cancel > 0 then return wrk.format("POST", path .. "/" .. table.remove(to_cancel, 1) .. "/cancel") end
    local n = next_request % #requests + 1
    next_request = next_request + 1
    if sent < 1 then return requests[n] end
    local at = now()
    if not deadline then
        first_s = at
        deadline = at + seconds
    elseif at > deadline then
        sent = sent - 1
        return ""
    end
    if sent == most then deadline = at end
    if keyed then
        headers["Idempotency-Key"] = uuid7()
        return wrk.format("POST", path, headers, bodies[n])
    end
    return requests[n]
end

-- Every so many orders, the last one is to be cancelled; not once the time is over.
local function note(id)
    owed = owed + share
    if owed < 1 or last_s > deadline then return end
    owed = owed - 1
    to_cancel[#to_cancel + 1] = id
end

function response(status, _, body)
    answered = answered + 1
    last_s = now()
    if answered == sent and last_s > deadline then
        io.write("all answered\n")
        io.flush()
    end
    if status < 200 or status > 299 then
        refused = refused + 1
        if status > 499 then failed = failed + 1 end
        if first_refusal == "" then first_refusal = status .. " " .. body:sub(1, 200):gsub("%s", " ") end
        return
    end
    -- Only an order that is read has its status right behind its id.
    local cancelled = share > 0 and body:match('^{"id":"([%x%-]+)","status":')
    if cancelled then
        cancels:write(cancelled, "\n")
        return
    end
    for id in body:gmatch('"id":%s*"([%x%-]+)"') do
        ids:write(id, "\n")
        note(id)
    end
end

-- ── in the main thread

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
end

function done(summary, latency)
    local out = io.open(os.getenv("ORDERS_SUMMARY"), "w")
    local function put(name, value) out:write(name, " ", tostring(value), "\n") end
    for _, name in ipairs({ "sent", "answered", "refused", "failed" }) do put(name, threads[1]:get(name)) end
    put("first_s", string.format("%.6f", threads[1]:get("first_s")))
    put("last_s", string.format("%.6f", threads[1]:get("last_s")))
    put("p50_us", latency:percentile(50))
    put("p90_us", latency:percentile(90))
    put("p99_us", latency:percentile(99))
    put("max_us", latency.max)
    put("broken", summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout)
    put("first_refusal", threads[1]:get("first_refusal"))
    out:close()
end
