#!lua flags=no-writes
-- How far each instance has come. KEYS: what is said of the log, the instances. Returns the number of the last record, then
-- of each that is alive its name and the number of the last record that it has applied, -1 where it has yet to read the log.
-- Nothing else than what we have written is read.
local said = redis.pcall('HMGET', KEYS[1], 'epoch', 'n')
local epoch, last = said[1] or '', string.match(said[2] or '', '^%d+$') or '0'
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)

local places, all = {last}, redis.pcall('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  local where, reached, ends = string.match(all[at + 1], '^(%S+) (%-?%d+) (%d+)$')
  if where and tonumber(ends) >= ms then
    places[#places + 1] = all[at]
    places[#places + 1] = where == epoch and reached or '-1'
  end
end
return places
