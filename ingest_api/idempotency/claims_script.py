"""The Redis script that begins and settles claims, all in one call. See ingest_api.idempotency.claims.

A value is

    order id (32 hex digits), state (1), owner (16), in flight until (13 digits, ms), made at (13), prices

    f   in flight       u   in flight, and another price may have been published before
    ?   in doubt        !   in doubt, and likewise
    d   answered

The next request with the same order takes over a claim in doubt, or one in flight for too long, with its prices. Only
the owner changes a value in flight, so a request that settles late cannot change the next one's claim.

Each client has a list of its claims, oldest first, from which its share of Redis is counted. An entry holds when the
claim was made, its bytes, the sum of bytes up to it, and its key. When a request is refused, its entry outlives its
claim, and still counts. So dropping an entry deletes only the claim made at that time, no later one of the same key.

**The marker.** `began`: everything before it may be forgotten. `gap`: the same, but not because of evictions; nearly
everything may be forgotten, so restoring is worth it. `level`: see `KeyMemory`.
"""

# One argument: a MessagePack. redis-py packs arguments one by one in Python: 4 keys and values an order took 4 to 5 µs,
# MessagePack takes 1.8 (64 orders a call).
# Returns [run, evictions, began, level, now, gap, then place, value, …] for the keys to begin that hold a value. For
# one that holds none, the value is when the newest claim was made that Redis dropped for its client, if it did.
EXCHANGE = """
local ns, settled, begun, remember_ms, in_flight_ms, settles_ms, most, unregistered, raise
  = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local marker = ns .. 'memory'
local function info(section, name)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and string.match(text, name .. ':(%w+)') or ''
end
local function whole(number) return string.format('%.0f', number) end
local run, evicted = info('server', 'run_id'), info('stats', 'evicted_keys')
local was = redis.pcall('HMGET', marker, 'run', 'evicted', 'began', 'level', 'gap')
if was.err then redis.call('DEL', marker) was = {false, false, false, false, false} end
local began, level, gap = tonumber(was[3]), tonumber(was[4]), tonumber(was[5])
local has_gap = not began or not level or not gap or was[1] ~= run or unregistered
if has_gap or was[2] ~= evicted then
  began, level = math.max(now, (began or 0) + 1), 0
  if has_gap then gap = began end
  redis.call('HSET', marker, 'run', run, 'evicted', evicted, 'began', whole(began), 'level', level, 'gap', whole(gap))
end
if raise[1] == began and raise[2] > level then
  level = raise[2]
  redis.call('HSET', marker, 'level', level)
end

-- Each call that serves a request writes: a replica, which refuses writes, must not pass for a Redis that works.
if #settled + #begun > 0 then redis.call('HSET', marker, 'asked', whole(now)) end

local function stands(key)
  local held = redis.pcall('GET', key)
  return type(held) == 'string' and #held >= 75 and not held:sub(63, 75):find('%D') and held or nil
end
local function made_of(held) return tonumber(held:sub(63, 75)) end
-- A claim keeps its age, however often it is settled. But one used now lives at least until its order is stored.
local function put(key, value, made)
  local left = math.max(made + remember_ms - now, math.min(remember_ms, settles_ms))
  redis.call('SET', key, value, 'PX', whole(math.min(left, remember_ms)))
end
local function is_in_flight(state) return state == 'f' or state == 'u' end

local function entry(claims, place)
  local text = redis.call('LINDEX', claims, place)
  if not text then return nil end
  local made, bytes, sum, key = text:match('^(%d+) (%d+) (-?%d+) (.+)$')
  return {made = tonumber(made), bytes = tonumber(bytes), sum = tonumber(sum), key = key}
end
-- Counts the bytes of a claim and its entry (a little more than measured) against the client's share. Past the share,
-- drops the client's oldest claims.
local function count(claims, key, value, made, is_latest)
  local bytes = math.floor(1.1 * #value) + 2 * #key + 200
  local beside = entry(claims, is_latest and -1 or 0)
  local sum = bytes
  if beside then sum = is_latest and beside.sum + bytes or beside.sum - beside.bytes end
  local text = string.format('%013.0f %.0f %.0f %s', made, bytes, sum, key)
  redis.call(is_latest and 'RPUSH' or 'LPUSH', claims, text)
  redis.call('PEXPIRE', claims, remember_ms)
  local last = is_latest and sum or entry(claims, -1).sum
  for _ = 1, 200 do
    local first = entry(claims, 0)
    if not first then break end
    local is_old = first.made <= now - remember_ms
    if not is_old and last - first.sum + first.bytes <= most then break end
    redis.call('LPOP', claims)
    local held = not is_old and stands(first.key)
    if held and made_of(held) == first.made then
      redis.call('DEL', first.key)
      local dropped = tonumber(redis.call('GET', claims .. ':dropped') or '') or 0
      redis.call('SET', claims .. ':dropped', whole(math.max(dropped, first.made)), 'PX', remember_ms)
    end
  end
end

for i = 1, #settled, 7 do
  local key, id, owner, state, made, priced, claims = unpack(settled, i, i + 6)
  local held = stands(key)
  local is_ours = held and held:sub(1, 32) == id and is_in_flight(held:sub(33, 33)) and held:sub(34, 49) == owner
  local is_doubt = held and held:sub(1, 32) == id and (held:sub(33, 33) == '?' or held:sub(33, 33) == '!')
  local settles = id .. state .. owner .. '0000000000000'
  if state == '' then
    if is_ours then redis.call('DEL', key) end
  elseif is_ours or (is_doubt and state == 'd') then
    put(key, settles .. held:sub(63, 75) .. priced, made_of(held))
  elseif not held and now - tonumber(made) < remember_ms then
    put(key, settles .. made .. priced, tonumber(made))
    count(claims, key, settles .. made .. priced, tonumber(made), false)
  end
end

local found = {run, evicted, whole(began), level, whole(now), whole(gap)}
local until_ms, made_ms = string.format('%013.0f', now + in_flight_ms), string.format('%013.0f', now)
for i = 1, #begun, 6 do
  local key, ids, owner, priced, instead, claims = unpack(begun, i, i + 5)
  local held = stands(key)
  if held and instead ~= '' and redis.sha1hex(held) == instead then held = nil end
  if not held then
    if priced ~= '' then
      local value = ids:sub(1, 32) .. (level > 0 and 'f' or 'u') .. owner .. until_ms .. made_ms .. priced
      put(key, value, now)
      count(claims, key, value, now, true)
    end
    local horizon = tonumber(redis.call('GET', claims .. ':dropped') or '')
    if horizon then found[#found + 1], found[#found + 2] = (i - 1) / 6, whole(horizon) end
  else
    local state, rest, same = held:sub(33, 33), held:sub(63), false
    for at = 1, #ids, 32 do same = same or ids:sub(at, at + 31) == held:sub(1, 32) end
    local is_over = is_in_flight(state) and tonumber(held:sub(50, 62)) < now
    if same and (is_over or state == '?' or state == '!') then
      local sure = state == 'f' or state == '?'
      put(key, held:sub(1, 32) .. (sure and 'f' or 'u') .. owner .. until_ms .. rest, made_of(held))
      held = held:sub(1, 32) .. (sure and '?' or '!') .. held:sub(34)
    end
    found[#found + 1], found[#found + 2] = (i - 1) / 6, held
  end
end
return found
"""
HEAD = 6
