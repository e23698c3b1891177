-- What the ledger is to be told by others if this replica and its journal are lost, as the operations of limiter.lua need it.
--
-- An open lease ends with '|' and a hold: the event that the ledger is given if nobody ever says how its request ended. 'h' for
-- 'g' says that it was given. A lease that is settled is kept as 's' and a copy of the final events of its request, until the
-- ledger has these.

local COPY = 's'

local function with_hold(lease_state, hold)
  return hold and lease_state .. '|' .. hold or lease_state
end

local function is_copy(lease_state)
  return lease_state and lease_state:sub(1, 1) == COPY
end

-- Of a lease that is or was open; '' if it has none.
local function hold_of(lease_state)
  return lease_state:sub(each_held(lease_state, function() end) + 1)
end

-- Whether there is something that the ledger may not have.
local function is_untold(lease_state)
  if not lease_state then return false end
  return is_copy(lease_state) or lease_state:sub(1, 1) == 'g' and hold_of(lease_state) ~= ''
end

-- What is kept of a lease of KEYS[1] that ends: its copy, if there is one and fewer than `room` leases and copies are kept.
local function end_lease(lease, copy, room)
  if copy == '' or redis.call('HLEN', KEYS[1]) > room then
    redis.call('HDEL', KEYS[1], lease)
    return nil
  end
  redis.call('HSET', KEYS[1], lease, COPY .. copy)
  return COPY
end

-- L: cursor. KEYS[4]: the leases of a replica
--   -> the next cursor, then per lease that was given up or settled: lease, 'g' (given up), 'h' (and held in the ledger) or 's',
--      its hold ('' if it has none) or its copy
local function remains()
  local page = redis.call('HSCAN', KEYS[4], ARGV[2], 'COUNT', 100)
  local reply, fields = { page[1] }, page[2]
  for i = 1, #fields, 2 do
    local state = fields[i + 1]
    local kind = state:match('^[ghs]')
    if kind then
      local told = kind == COPY and state:sub(2) or hold_of(state)
      for _, part in ipairs({ fields[i], kind, told }) do reply[#reply + 1] = part end
    end
  end
  return reply
end

-- M: leases that were given up and that the ledger now holds. KEYS[4]: the leases of a replica -> 0
local function mark_held()
  for i = 2, #ARGV do
    local state = redis.call('HGET', KEYS[4], ARGV[i])
    if state and state:sub(1, 1) == 'g' then redis.call('HSET', KEYS[4], ARGV[i], 'h' .. state:sub(2)) end
  end
  return { 0 }
end

-- F: leases whose copies the ledger has. KEYS[4]: the leases of a replica -> 0
-- An open lease of that name is another matter: its request may have been decided elsewhere.
local function forget_copies()
  for i = 2, #ARGV do
    if is_copy(redis.call('HGET', KEYS[4], ARGV[i])) then redis.call('HDEL', KEYS[4], ARGV[i]) end
  end
  return { 0 }
end
