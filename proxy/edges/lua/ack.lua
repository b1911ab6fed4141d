#!lua flags=allow-oom
-- Say what an instance has applied. KEYS: the instances, then what becomes of each batch. ARGV: the instance, its epoch
-- and number, the name of channels to one instance without it, then id and sender of each batch.
local INSTANCES, INSTANCE, EPOCH, NUMBER, TO = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- The end of a field that we have written; nil where there is none, or it is anybody else's.
local function ending(key, field)
  local value = redis.pcall('HGET', key, field)
  return type(value) == 'string' and string.match(value, '^%S+ %-?%d+ (%d+)$') or nil
end

local ends = ending(INSTANCES, INSTANCE)
if ends then redis.call('HSET', INSTANCES, INSTANCE, EPOCH .. ' ' .. NUMBER .. ' ' .. ends) end
for at = 2, #KEYS do
  local written = ending(KEYS[at], '*')
  if written then
    local ms = string.format('%.3f', math.max(now - written, 0) / 1000)
    if redis.call('HSETNX', KEYS[at], INSTANCE, ms) == 1 then
      local id, sender = ARGV[at * 2 + 1], ARGV[at * 2 + 2]
      redis.call('PUBLISH', TO .. sender, 'ack ' .. id .. ' ' .. INSTANCE .. ' ' .. ms)
    end
  end
end
