-- Budgets, as the operations of limiter.lua need them.
--
-- An amount is a pair of limbs, { whole micro-USD, rest in pico-USD }: both are exact in Lua's numbers up to 9e9 USD.
--
-- A budget is a hash, one per epoch, scope and window: g granted here, u used (settled and reserved), r reserved,
-- b granted or settled elsewhere, e what of that is settled, each with h for the micro-USD and l for the rest; f the
-- millisecond until which a refusal is final.

local REST = 1000000
local ZERO = { 0, 0 }
local FINAL_MS = 1000
local DAY_MS = 86400000

local function limbs(micro, rest)
  return { tonumber(micro), tonumber(rest) }
end

local function plus(a, b)
  local micro, rest = a[1] + b[1], a[2] + b[2]
  if rest >= REST then return { micro + 1, rest - REST } end
  return { micro, rest }
end

local function minus(a, b)
  local micro, rest = a[1] - b[1], a[2] - b[2]
  if rest < 0 then return { micro - 1, rest + REST } end
  return { micro, rest }
end

local function exceeds(a, b)
  return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2])
end

-- nil: nothing was granted here, or it is lost.
local function budget_at(key)
  local found = redis.call('HMGET', key, 'gh', 'gl', 'uh', 'ul', 'rh', 'rl', 'bh', 'bl', 'f', 'eh', 'el')
  if not found[1] then return nil end
  return {
    granted = limbs(found[1], found[2]),
    used = limbs(found[3], found[4]),
    reserved = limbs(found[5], found[6]),
    elsewhere = limbs(found[7], found[8]),
    settled_elsewhere = limbs(found[10] or 0, found[11] or 0),
    final_until = tonumber(found[9]),
  }
end

local function nothing_granted()
  return {
    granted = ZERO, used = ZERO, reserved = ZERO, elsewhere = ZERO, settled_elsewhere = ZERO, final_until = 0,
  }
end

local function write_use(key, used, reserved)
  redis.call('HSET', key, 'uh', used[1], 'ul', used[2], 'rh', reserved[1], 'rl', reserved[2])
end

-- `is_given_up`: it is not among what is reserved any more.
local function settle_budget(key, reserved, actual, is_given_up)
  local found = redis.call('HMGET', key, 'uh', 'ul', 'rh', 'rl')
  -- Gone: its window is long over, or its epoch is. The ledger knows what was spent.
  if not found[1] then return end
  local used, held = limbs(found[1], found[2]), limbs(found[3], found[4])
  write_use(key, plus(minus(used, reserved), actual), is_given_up and held or minus(held, reserved))
end

local function append_standing(reply, budget)
  for _, part in ipairs({
    budget.granted, budget.used, budget.reserved, budget.elsewhere, budget.settled_elsewhere,
  }) do
    reply[#reply + 1] = part[1]
    reply[#reply + 1] = part[2]
  end
  return reply
end

-- A lease remembers what it holds of each budget, so that it can be voided by its id alone. The length tells where a
-- key ends: ids of scopes have any character.
local function hold(key, micro, rest)
  return ';' .. micro .. ',' .. rest .. ',' .. #key .. ',' .. key
end

-- What a lease holds: `visit` is called with each key and amount. The keys are not in KEYS, but they have the hash tag of
-- those, so they are on the same server. -> where it ends
local function each_held(lease_state, visit)
  local at = lease_state:match('^%a%d+t?()')
  while lease_state:sub(at, at) == ';' do
    local micro, rest, length, start = lease_state:match('^;(%d+),(%d+),(%d+),()', at)
    at = start + length
    visit(lease_state:sub(start, at - 1), limbs(micro, rest))
  end
  return at
end

-- Settles what a lease holds, to what `charged` says by key; nothing was used of the others.
local function settle_held(lease_state, charged)
  local is_given_up = lease_state:sub(1, 1) ~= 'o'
  each_held(lease_state, function(key, held) settle_budget(key, held, charged[key] or ZERO, is_given_up) end)
end

-- Settles what an open lease holds to all of it, until somebody knows better.
local function give_up(lease_state)
  each_held(lease_state, function(key, held) settle_budget(key, held, held, false) end)
  return 'g' .. lease_state:sub(2)
end
