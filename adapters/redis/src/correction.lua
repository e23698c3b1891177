-- Adds what was charged later to what budgets have settled; money.lua is put in front.
--
-- KEYS[1]   the number of the last correction of this run
-- KEYS[2..] budgets
-- ARGV[1]   number of the correction; then per budget what is added, in limbs

if tonumber(ARGV[1]) <= (tonumber(redis.call('GET', KEYS[1])) or -1) then return 0 end
for i = 2, #KEYS do
  -- As if it had never been reserved.
  settle_budget(KEYS[i], ZERO, limbs(ARGV[2 * i - 2], ARGV[2 * i - 1]), true)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', DAY_MS)
return 0
