-- Limits in every scope, each operation one atomic step. Layout 0 of the keys: releases that run side by side share it.
--
-- The loader puts in front: EPOCH, WINDOW (seconds), LEASE_MS, server_ms(), the time of this server in milliseconds, and
-- money.lua and copies.lua. EPOCH is a number in the script that is loaded only where the ledger has attested that epoch: a server that
-- was restarted, or promoted, does not know that script. In the script for all that needs no money it is nil.
--
-- KEYS[1]   leases of the calling replica; hash: lease id -> 'o' second (open), 't' if it is a top-up, then what it holds of
--           budgets, then what copies.lua says; the same with 'g' for 'o' (given up: the replica was silent, so it counts as
--           used up); 's' and what copies.lua says (settled); or 'x' second (voided); 'beat' -> '1'
-- KEYS[2]   the latest second that any caller saw
-- KEYS[3]   the epoch that this server's data belongs to
-- KEYS[4..] one per claim, unless the operation says something else
--             rate         hash: <second> -> used in it, r<second> -> what of that is reserved by what has not ended; s sum
--                          of what is used, o oldest second, n newest second
--             concurrency  sorted set: lease id, its score the millisecond at which it expires
--             budget       see money.lua
-- ARGV[1]   operation; the rest is told there. The first number of every reply says how it went.

local HELD, REFUSED, VOIDED, EXHAUSTED, NEEDS_GRANTS, WRONG_WINDOW, OTHER_EPOCH, DONE = 0, 1, 2, 3, 4, 5, 6, 0
local FIRST = 4                     -- key of the first claim
local CONCURRENCY_RETRY_MS = 1000   -- nobody knows when a request in flight will end
local KEPT_MS = 2 * DAY_MS          -- leases, after the last sign of life of their replica
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
  local found = call('HMGET', key, 's', 'o', 'n', second, 'r' .. second)
  local sum, oldest, newest = tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
  if not sum then return { sum = 0, oldest = second, own = 0, own_reserved = 0 } end
  if newest < second - WINDOW or newest > second then
    call('DEL', key)
    return { sum = 0, oldest = second, own = 0, own_reserved = 0 }
  end
  local first = second - WINDOW
  if oldest < first then
    local left, gone = {}, {}
    for bucket = oldest, first - 1 do left[#left + 1] = bucket end
    for i, used in ipairs(call('HMGET', key, unpack(left))) do
      if used then
        sum = sum - used
        gone[#gone + 1] = left[i]
        gone[#gone + 1] = 'r' .. left[i]
      end
    end
    if #gone > 0 then call('HDEL', key, unpack(gone)) end
    oldest = first
    call('HSET', key, 's', sum, 'o', oldest)
  end
  return { sum = sum, oldest = oldest, own = tonumber(found[4]) or 0, own_reserved = tonumber(found[5]) or 0 }
end

-- The seconds of a rate in which something was used, the oldest first: which, how much, and what of it is reserved.
local function buckets_of(key, rate)
  local found, fields, buckets = {}, call('HGETALL', key), {}
  for i = 1, #fields, 2 do found[fields[i]] = tonumber(fields[i + 1]) end
  for bucket = rate.oldest, second do
    local name = string.format('%d', bucket)
    local used = found[name] or 0
    if used > 0 then
      -- Less is used than reserved only where a release that does not know what is reserved has settled it.
      buckets[#buckets + 1] = { at = bucket, used = used, reserved = math.min(found['r' .. name] or 0, used) }
    end
  end
  return buckets
end

-- Milliseconds until what was used in a second is free again.
local function free_ms(bucket)
  return (bucket + WINDOW + 1) * 1000 - now
end

-- Milliseconds until the limit is whole if nothing more than `added` is used.
local function whole_ms(key, rate, added)
  if rate.sum + added == 0 then return 0 end
  if rate.own + added > 0 then return free_ms(second) end
  local buckets = buckets_of(key, rate)
  return free_ms(buckets[#buckets].at)
end

-- What is settled of a rate and what is reserved; the milliseconds until the limit is whole and until `amount` fits, if
-- nothing more is used: a whole window if it never does.
local function assess(key, rate, limit, amount)
  local left, reserved, whole, fits = rate.sum, 0, 0, nil
  for _, bucket in ipairs(buckets_of(key, rate)) do
    left, reserved, whole = left - bucket.used, reserved + bucket.reserved, free_ms(bucket.at)
    if not fits and left + amount <= limit then fits = whole end
  end
  return rate.sum - reserved, reserved, whole, fits or free_ms(second)
end

-- The reply where another epoch's data is, or none's: -1.
local function other_epoch()
  local found = tonumber(call('GET', KEYS[3]))
  if found ~= EPOCH then return { OTHER_EPOCH, found or -1 } end
end

-- What the money claims from KEYS[first] and ARGV[at] on meet: the budgets as they will be, a reply that comes before any
-- refusal, and one that comes after.
local function judge_money(first, at)
  local planned, exhausted, needed = {}, nil, nil
  for i = first, #KEYS do
    local limit, claimed = limbs(ARGV[at], ARGV[at + 1]), limbs(ARGV[at + 2], ARGV[at + 3])
    if now < tonumber(ARGV[at + 4]) or now >= tonumber(ARGV[at + 5]) then return nil, { WRONG_WINDOW, now } end
    local found = budget_at(KEYS[i])
    local budget = found or nothing_granted()
    local used = plus(budget.used, claimed)
    if exceeds(used, budget.granted) or exceeds(used, minus(limit, budget.elsewhere)) then
      if exceeds(used, limit) or budget.final_until > now then
        exhausted = exhausted or append_standing({ EXHAUSTED, i - first }, budget)
      else
        needed = needed or { NEEDS_GRANTS }
        local granted = found and found.granted or { -1, -1 }
        for _, number in ipairs({ i - first, granted[1], granted[2] }) do needed[#needed + 1] = number end
      end
    end
    budget.claimed, budget.used, budget.reserved = claimed, used, plus(budget.reserved, claimed)
    budget.at = at + 2
    planned[i] = budget
    at = at + 6
  end
  return planned, exhausted, needed
end

-- What the counts meet, which are the claims up to KEYS[last] and begin at ARGV[4]: what they need to be written, the
-- standings after that, and the refusal of the one that waits longest. A lease that is held already claims nothing more.
local function judge_counts(last, is_held)
  local planned, standings, refusal = {}, {}, nil
  for i = FIRST, last do
    local key, at = KEYS[i], 4 + 3 * (i - FIRST)
    local kind, limit, amount = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    if is_held then amount = 0 end
    local used, rate
    if kind == 'w' then
      rate = roll(key)
      used, rate.amount = rate.sum, amount
    else
      used = call('ZCOUNT', key, string.format('(%d', now), '+inf')
    end
    if used + amount > limit and not is_held then
      local settled, reserved, whole, wait = 0, used, 0, CONCURRENCY_RETRY_MS
      if rate then settled, reserved, whole, wait = assess(key, rate, limit, amount) end
      if not refusal or wait > refusal[7] then
        refusal = { REFUSED, i - FIRST, settled, reserved, math.max(limit - used, 0), whole, wait }
      end
    elseif not refusal then
      planned[i] = rate or used
      standings[#standings + 1] = math.max(limit - used - amount, 0)
      standings[#standings + 1] = rate and whole_ms(key, rate, amount) or 0
    end
  end
  return planned, standings, refusal
end

local function write_count(key, planned, lease)
  if type(planned) == 'table' then
    call('HSET', key, 's', planned.sum + planned.amount, 'o', planned.oldest, 'n', second,
      second, planned.own + planned.amount, 'r' .. second, planned.own_reserved + planned.amount)
    if planned.own == 0 or stepped_back then call('EXPIRE', key, WINDOW + 2) end
  else
    if planned % 64 == 0 then call('ZREMRANGEBYSCORE', key, '-inf', now) end
    call('ZADD', key, now + LEASE_MS, lease)
    call('PEXPIRE', key, 2 * LEASE_MS)
  end
end

-- R, or T if it is a top-up: lease, number of counts, then per count: kind ('w' rate, 'c' concurrency), limit, amount; then per money claim:
-- limit, amount, and from and before which millisecond it is valid; then, if there are any, what the ledger is to hold
--   -> HELD, then per count what remains and the milliseconds until the limit is whole, then per money claim its standing
--    | WRONG_WINDOW, now
--    | EXHAUSTED, index of the money claim, its standing
--    | REFUSED, index of the count that waits longest, what of it is settled, reserved and left, the milliseconds until the
--      limit is whole, and until the claim fits
--    | NEEDS_GRANTS, then per money claim in need its index and what is granted (-1: nothing ever)
--    | VOIDED before it arrived
local function reserve(top_up)
  local lease, counts = ARGV[2], tonumber(ARGV[3])
  local first_money = FIRST + counts
  local state = call('HGET', KEYS[1], lease)
  if state and state:sub(1, 1) == 'x' then return { VOIDED } end
  local budgets, exhausted, needed
  if #KEYS >= first_money then
    local elsewhere = other_epoch()
    if elsewhere then return elsewhere end
    if not state then budgets, exhausted, needed = judge_money(first_money, 4 + 3 * counts) end
    if exhausted then return exhausted end
  end
  local planned, reply, refusal = judge_counts(first_money - 1, state)
  if refusal or needed then return refusal or needed end
  table.insert(reply, 1, HELD)
  for i = first_money, #KEYS do
    append_standing(reply, budgets and budgets[i] or budget_at(KEYS[i]) or nothing_granted())
  end
  if state then return reply end
  for i = FIRST, first_money - 1 do write_count(KEYS[i], planned[i], lease) end
  state = string.format('o%d%s', second, top_up or '')
  for i = first_money, #KEYS do
    local budget = budgets[i]
    if exceeds(budget.claimed, ZERO) then
      write_use(KEYS[i], budget.used, budget.reserved)
      state = state .. hold(KEYS[i], ARGV[budget.at], ARGV[budget.at + 1])
    end
  end
  call('HSET', KEYS[1], lease, with_hold(state, ARGV[4 + 3 * counts + 6 * (#KEYS - first_money + 1)]))
  return reply
end

-- G: epoch, granted, elsewhere, settled of that, '1' if the ledger has no more, end of the window in milliseconds ('' if it has none)
--   -> DONE, of no effect in another epoch
local function grant()
  if tonumber(ARGV[2]) ~= EPOCH then return { DONE } end
  local other = other_epoch()
  if other then return other end
  local key, ends = KEYS[FIRST], ARGV[10]
  local budget = budget_at(key)
  if budget and exceeds(budget.granted, limbs(ARGV[3], ARGV[4])) then return { DONE } end
  if not budget then write_use(key, ZERO, ZERO) end
  call('HSET', key, 'gh', ARGV[3], 'gl', ARGV[4], 'bh', ARGV[5], 'bl', ARGV[6],
    'eh', ARGV[7], 'el', ARGV[8], 'f', ARGV[9] == '1' and now + FINAL_MS or 0)
  if ends ~= '' then call('PEXPIRE', key, math.max(ends - now, 0) + DAY_MS) end
  return { DONE }
end

-- What was reserved in a second is so no longer, and what was used differs from it by `change`.
local function settle_rate(key, reserved_in, reserved, change)
  local field = 'r' .. reserved_in
  if call('HINCRBY', key, field, -reserved) <= 0 then call('HDEL', key, field) end
  if change == 0 then return end
  local found = call('HMGET', key, 's', reserved_in)
  -- No such bucket: it left the window, and nothing is owed.
  if found[2] then call('HSET', key, 's', found[1] + change, reserved_in, found[2] + change) end
end

-- S: how many leases and copies all replicas may keep; then a batch; per settlement: lease, 'h' (held), 'u' (unknown: void it,
-- also if it arrives later) or 'd' (dead: void it), number of counts, number of money claims, its copy or ''; per count its
-- kind and for a rate what was reserved, and what was used minus that; per money claim what was reserved and what was used. What
-- is voided is told by the lease itself, as far as it is money. The last key: the replicas by their last beat
--   -> DONE, then of each copy: 1 it is kept, 0 there is no room, -1 nor is there such a lease
local function settle()
  local at, claim, reply = 3, FIRST, { DONE }
  local room = tonumber(ARGV[2]) / math.max(call('ZCARD', KEYS[#KEYS]), 1)
  while ARGV[at] do
    local lease, certainty, copy = ARGV[at], ARGV[at + 1], ARGV[at + 4]
    local first_money = claim + tonumber(ARGV[at + 2])
    local next_settlement = first_money + tonumber(ARGV[at + 3])
    at = at + 5
    local state = call('HGET', KEYS[1], lease)
    local kind, reserved_in = (state or ''):match('^([ogh])(%d+)')
    -- What the ledger holds is not void: the journal tells what it was.
    if kind == 'h' and certainty ~= 'h' then kind, reserved_in = nil, nil end
    if reserved_in and certainty ~= 'h' then settle_held(state, {}) end
    if certainty == 'u' then
      if reserved_in or not state then call('HSET', KEYS[1], lease, string.format('x%d', second)) end
    elseif reserved_in then
      state = end_lease(lease, copy, room)
    elseif is_copy(state) and copy == '' and certainty == 'h' then
      -- Said again, because the answer was lost: by now the ledger has it, and nobody else will remove the copy.
      call('HDEL', KEYS[1], lease)
    end
    if copy ~= '' then reply[#reply + 1] = is_copy(state) and 1 or reserved_in and 0 or -1 end
    for i = claim, first_money - 1 do
      local key = KEYS[i]
      if ARGV[at] == 'w' then
        if reserved_in then settle_rate(key, reserved_in, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])) end
        at = at + 3
      else
        if reserved_in then call('ZREM', key, lease) end
        at = at + 1
      end
    end
    for i = first_money, next_settlement - 1 do
      if reserved_in then
        settle_budget(KEYS[i], limbs(ARGV[at], ARGV[at + 1]), limbs(ARGV[at + 2], ARGV[at + 3]), kind ~= 'o')
      end
      at = at + 4
    end
    claim = next_settlement
  end
  return reply
end

-- H: '1' if this is the last part, the name of the replica, then the lease of each concurrency key, which are the keys after
-- KEYS[4], the replicas by their last beat -> DONE
-- The caller holds these leases. Without 'beat' the server lost its data, and they are put back.
local function heartbeat()
  local lost = call('HEXISTS', KEYS[1], 'beat') == 0
  for i = FIRST + 1, #KEYS do
    local lease = ARGV[i - FIRST + 3]
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
  call('PEXPIRE', KEYS[1], KEPT_MS)
  call('ZADD', KEYS[FIRST], now, ARGV[3])
  return { DONE }
end

-- P: cursor -> DONE, the next cursor, then the leases, open or given up, that are older than a window.
-- Tombstones of that age go: no reservation is that late.
local function purge()
  local page = call('HSCAN', KEYS[1], ARGV[2], 'COUNT', 100)
  local reply, fields = { DONE, page[1] }, page[2]
  for i = 1, #fields, 2 do
    local state, since = fields[i + 1]:match('^([ogx])(%d+)')
    if state and tonumber(since) < second - WINDOW then
      if state == 'x' then call('HDEL', KEYS[1], fields[i]) else reply[#reply + 1] = fields[i] end
    end
  end
  return reply
end

-- N: milliseconds. KEYS: the replicas by their last beat, those of which leases were given up, by when
--   -> of the first: name, '1' if it was silent for that long or else '0'; of the second: name, ''
local function names()
  local reply = {}
  local function append(key, flag)
    local found = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #found, 2 do
      reply[#reply + 1] = found[i]
      reply[#reply + 1] = flag(tonumber(found[i + 1]))
    end
  end
  append(KEYS[FIRST], function(beat) return beat + ARGV[2] < now and '1' or '0' end)
  call('ZREMRANGEBYSCORE', KEYS[FIRST + 1], '-inf', now - KEPT_MS)
  append(KEYS[FIRST + 1], function() return '' end)
  return reply
end

-- D: a replica, milliseconds, cursor, how many of its leases this walk gave up so far, milliseconds, how many it found of which
-- the ledger has to be told. KEYS: as for N, then the leases of that replica
--   -> DONE, the next cursor, how many leases were given up by now, of how many the ledger has to be told
-- If it was silent for longer than the first, what is open gives up what it reserved. If it was silent for longer than the
-- second, and a walk found nothing to do, nobody need walk again: no command of it is that late.
local function bury()
  local replicas, given_up, leases = KEYS[FIRST], KEYS[FIRST + 1], KEYS[FIRST + 2]
  local replica, count, untold = ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[7])
  local silence = now - (tonumber(call('ZSCORE', replicas, replica)) or -math.huge)
  if silence <= tonumber(ARGV[3]) then return { DONE, '0', count, untold } end
  local page, before = call('HSCAN', leases, ARGV[4], 'COUNT', 100), count
  local fields = page[2]
  for i = 1, #fields, 2 do
    local state = call('HGET', leases, fields[i]) -- a scan may tell a field twice
    local kind = state and state:sub(1, 1)
    if kind == 'o' and state:find(';', 1, true) then
      state = give_up(state)
      call('HSET', leases, fields[i], state)
      count = count + 1
    elseif kind == 'o' or kind == 'x' then
      call('HDEL', leases, fields[i])
    end
    if is_untold(state) then untold = untold + 1 end
  end
  if count > before then
    call('ZADD', given_up, now, replica)
    call('PEXPIRE', leases, KEPT_MS)
  end
  if page[1] == '0' and count == 0 and untold == 0 and silence > tonumber(ARGV[6]) then
    call('ZREM', replicas, replica)
    if call('HLEN', leases) == call('HEXISTS', leases, 'beat') then
      call('DEL', leases)
      call('ZREM', given_up, replica)
    end
  end
  return { DONE, page[1], count, untold }
end

-- C: a batch; per lease: lease, to how many budgets its request was charged (-1: nobody will ever know; the lease stays used
-- up); per budget what was charged. KEYS: the leases of a replica, then the budgets -> DONE
-- Each lease that was given up is settled to that, once. Top-ups hold more of what an earlier lease is charged for.
local function charge()
  local leases, at, claim = KEYS[FIRST], 2, FIRST + 1
  while ARGV[at] do
    local lease, budgets = ARGV[at], tonumber(ARGV[at + 1])
    local state, charged = call('HGET', leases, lease), {}
    at = at + 2
    for i = claim, claim + budgets - 1 do
      charged[KEYS[i]] = limbs(ARGV[at], ARGV[at + 1])
      at = at + 2
    end
    claim = claim + math.max(budgets, 0)
    if state and state:match('^[gh]') then
      if state:match('^.%d+t') then charged = {} end
      if budgets >= 0 then settle_held(state, charged) end
      call('HDEL', leases, lease)
    end
  end
  return { DONE }
end

-- E: nothing, or an epoch that begins here and the run id of the server for which it was attested
--   -> DONE, the epoch that this server's data belongs to (-1: none), INFO
local function epoch()
  local info, found = call('INFO'), tonumber(call('GET', KEYS[3]))
  local begins, run_id = tonumber(ARGV[2]), ARGV[3]
  if begins and begins > (found or -1) and info:find('run_id:' .. run_id, 1, true) then
    call('SET', KEYS[3], begins)
    found = begins
  end
  return { DONE, found or -1, info }
end

local operations = {
  R = reserve, G = grant, S = settle, H = heartbeat, P = purge, E = epoch, N = names, D = bury, C = charge,
  L = remains, M = mark_held, F = forget_copies,
  T = function() return reserve('t') end,
}
return operations[ARGV[1]]()
