-- Limits in every scope, each operation one atomic step. Layout 0 of the keys: releases that run side by side share it.
--
-- The loader puts in front: WINDOW (seconds), LEASE_MS, and server_ms(), the time of this server in milliseconds.
--
-- KEYS[1]   leases of the calling replica; hash: lease id -> 'o' second (open) or 'x' second (voided); 'beat' -> '1'
-- KEYS[2]   the latest second that any caller saw
-- KEYS[3..] one per claim
--             rate         hash: <second> -> used in it; s sum, o oldest second, n newest second
--             concurrency  sorted set: lease id, its score the millisecond at which it expires
-- ARGV[1]   operation; the rest is told there. The first number of every reply says how it went.

local HELD, REFUSED, VOIDED, DONE = 0, 1, 2, 0
local CONCURRENCY_RETRY_MS = 1000   -- nobody knows when a request in flight will end
local call = redis.call

-- Seconds never run backwards by less than a window, so that a server's clock that steps back re-opens no bucket.
local now = server_ms()
local second = math.floor(now / 1000)
local latest = tonumber(call('GET', KEYS[2]))
local stepped_back = latest and second < latest and latest - second <= WINDOW
if stepped_back then
  second, now = latest, latest * 1000
elseif second ~= latest then
  call('SET', KEYS[2], second)
end

-- Brings a rate to this second: what left the window is free again.
local function roll(key)
  local found = call('HMGET', key, 's', 'o', 'n', second)
  local sum, oldest, newest = tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
  if not sum then return { sum = 0, oldest = second, own = 0 } end
  if newest < second - WINDOW or newest > second then
    call('DEL', key)
    return { sum = 0, oldest = second, own = 0 }
  end
  local first = second - WINDOW
  if oldest < first then
    local left, gone = {}, {}
    for bucket = oldest, first - 1 do left[#left + 1] = bucket end
    for i, used in ipairs(call('HMGET', key, unpack(left))) do
      if used then sum = sum - used; gone[#gone + 1] = left[i] end
    end
    if #gone > 0 then call('HDEL', key, unpack(gone)) end
    oldest = first
    call('HSET', key, 's', sum, 'o', oldest)
  end
  return { sum = sum, oldest = oldest, own = tonumber(found[4]) or 0 }
end

-- Milliseconds until `amount` fits under `limit` if nothing more is used; a whole window if it never does.
local function wait_ms(key, rate, limit, amount)
  local buckets = {}
  for bucket = rate.oldest, second do buckets[#buckets + 1] = bucket end
  local left, fits_at = rate.sum, second + WINDOW + 1
  for i, used in ipairs(call('HMGET', key, unpack(buckets))) do
    left = left - (tonumber(used) or 0)
    if left + amount <= limit then fits_at = buckets[i] + WINDOW + 1; break end
  end
  return fits_at * 1000 - now
end

-- Milliseconds until the limit is whole if nothing more than `added` is used.
local function whole_ms(key, rate, added)
  if rate.sum + added == 0 then return 0 end
  local last = second
  if rate.own + added == 0 then
    local buckets = {}
    for bucket = rate.oldest, second do buckets[#buckets + 1] = bucket end
    for i, used in ipairs(call('HMGET', key, unpack(buckets))) do
      if (tonumber(used) or 0) > 0 then last = buckets[i] end
    end
  end
  return (last + WINDOW + 1) * 1000 - now
end

-- R: lease, then per claim: kind ('w' rate, 'c' concurrency), limit, amount
--   -> HELD, then per claim what remains and the milliseconds until the limit is whole
--    | REFUSED, index of the claim that waits longest, what remains of it, milliseconds
--    | VOIDED before it arrived
local function reserve()
  local lease = ARGV[2]
  local state = call('HGET', KEYS[1], lease)
  if state and state:sub(1, 1) == 'x' then return { VOIDED } end
  local reply, plan, refusal = { HELD }, {}, nil
  for i = 3, #KEYS do
    local key, at = KEYS[i], 3 * (i - 2)
    local kind, limit, amount = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    if state then amount = 0 end
    local used, rate
    if kind == 'w' then
      rate = roll(key)
      used, rate.amount = rate.sum, amount
    else
      used = call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
    end
    if used + amount > limit and not state then
      local wait = rate and wait_ms(key, rate, limit, amount) or CONCURRENCY_RETRY_MS
      if not refusal or wait > refusal[4] then refusal = { REFUSED, i - 3, math.max(limit - used, 0), wait } end
    elseif not refusal then
      plan[i] = rate or used
      reply[#reply + 1] = math.max(limit - used - amount, 0)
      reply[#reply + 1] = rate and whole_ms(key, rate, amount) or 0
    end
  end
  if refusal then return refusal end
  if state then return reply end
  for i = 3, #KEYS do
    local key, planned = KEYS[i], plan[i]
    if type(planned) == 'table' then
      call('HSET', key, 's', planned.sum + planned.amount, 'o', planned.oldest, 'n', second,
        second, planned.own + planned.amount)
      if planned.own == 0 or stepped_back then call('EXPIRE', key, WINDOW + 2) end
    else
      if planned % 64 == 0 then call('ZREMRANGEBYSCORE', key, '-inf', now) end
      call('ZADD', key, now + LEASE_MS, lease)
      call('PEXPIRE', key, 2 * LEASE_MS)
    end
  end
  call('HSET', KEYS[1], lease, string.format('o%.0f', second))
  return reply
end

-- S: a batch; per settlement: lease, 'h' (held) or 'u' (unknown: void it), number of claims, and per claim its kind and
-- for a rate what was used minus what was reserved -> DONE
local function settle()
  local at, claim = 2, 3
  while ARGV[at] do
    local lease, certainty, claims = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    at = at + 3
    local state = call('HGET', KEYS[1], lease)
    local reserved_in = state and state:match('^o(%d+)$')
    if certainty == 'u' then
      if reserved_in or not state then call('HSET', KEYS[1], lease, string.format('x%.0f', second)) end
    elseif reserved_in then
      call('HDEL', KEYS[1], lease)
    end
    for i = claim, claim + claims - 1 do
      local key = KEYS[i]
      if ARGV[at] == 'w' then
        local change = tonumber(ARGV[at + 1])
        if reserved_in and change ~= 0 then
          local found = call('HMGET', key, 's', reserved_in)
          -- No such bucket: it left the window, and nothing is owed.
          if found[2] then call('HSET', key, 's', found[1] + change, reserved_in, found[2] + change) end
        end
        at = at + 2
      else
        if reserved_in then call('ZREM', key, lease) end
        at = at + 1
      end
    end
    claim = claim + claims
  end
  return { DONE }
end

-- H: '1' if this is the last part, then the lease of each concurrency key -> DONE
-- The caller holds these leases. Without 'beat' the server lost its data, and they are put back.
local function heartbeat()
  local lost = call('HEXISTS', KEYS[1], 'beat') == 0
  for i = 3, #KEYS do
    local lease = ARGV[i]
    local state = call('HGET', KEYS[1], lease)
    if not state and lost then
      state = 'o0'
      call('HSET', KEYS[1], lease, state)
    end
    if state and state:sub(1, 1) == 'o' then
      call('ZADD', KEYS[i], now + LEASE_MS, lease)
      call('PEXPIRE', KEYS[i], 2 * LEASE_MS)
    end
  end
  if ARGV[2] == '1' then call('HSET', KEYS[1], 'beat', '1') end
  call('EXPIRE', KEYS[1], 2 * 86400)
  return { DONE }
end

-- P: cursor -> DONE, the next cursor, then the open leases that are older than a window.
-- Tombstones of that age go: no reservation is that late.
local function purge()
  local page = call('HSCAN', KEYS[1], ARGV[2], 'COUNT', 100)
  local reply, fields = { DONE, page[1] }, page[2]
  for i = 1, #fields, 2 do
    local state, since = fields[i + 1]:match('^([ox])(%d+)$')
    if state and tonumber(since) < second - WINDOW then
      if state == 'x' then call('HDEL', KEYS[1], fields[i]) else reply[#reply + 1] = fields[i] end
    end
  end
  return reply
end

local operations = { R = reserve, S = settle, H = heartbeat, P = purge }
return operations[ARGV[1]]()
