#!lua flags=no-writes
-- How far one batch has come. KEYS: what has become of it, the instances. Returns nil where there is no such batch, else
-- instance and milliseconds of who has applied it, and the names of those alive that have not.
-- Nothing else than what we have written is read.
local batch = redis.pcall('HGET', KEYS[1], '*')
local epoch, number = string.match(type(batch) == 'string' and batch or '', '^(%S+) (%d+) %d+$')
if not epoch then return false end
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function born(name)
  return tonumber(string.match(name, '^%d+')) or 0
end

local applied, by = {}, {}
local acks = redis.call('HGETALL', KEYS[1])
for at = 1, #acks, 2 do
  if acks[at] ~= '*' and string.match(acks[at + 1], '^%d+%.%d+$') then
    applied[#applied + 1], by[acks[at]] = acks[at], true
    applied[#applied + 1] = acks[at + 1]
  end
end

-- Who is in a later epoch trusts nothing from before it, so it has nothing to apply.
local pending, all = {}, redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  local where, reached, ends = string.match(all[at + 1], '^(%S+) (%-?%d+) (%d+)$')
  if where and tonumber(ends) >= ms and not by[all[at]] then
    local behind = born(where) < born(epoch) or (where == epoch and tonumber(reached) < tonumber(number))
    if behind then pending[#pending + 1] = all[at] end
  end
end
return {applied, pending}
