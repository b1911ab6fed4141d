#!lua flags=allow-oom
-- Say what an instance has applied. KEYS: the instances, then what becomes of each batch. ARGV: the instance, its epoch
-- and number, the name of channels to one instance without it, then id and sender of each batch.
local INSTANCES, INSTANCE, EPOCH, NUMBER, TO = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local registered = redis.call('HGET', INSTANCES, INSTANCE)
if registered then
  redis.call('HSET', INSTANCES, INSTANCE, EPOCH .. ' ' .. NUMBER .. ' ' .. string.match(registered, '%d+$'))
end
for at = 2, #KEYS do
  local batch = redis.call('HGET', KEYS[at], '*')
  if batch then
    local ms = string.format('%.3f', (now - string.match(batch, '%d+$')) / 1000)
    if redis.call('HSETNX', KEYS[at], INSTANCE, ms) == 1 then
      local id, sender = ARGV[at * 2 + 1], ARGV[at * 2 + 2]
      redis.call('PUBLISH', TO .. sender, 'ack ' .. id .. ' ' .. INSTANCE .. ' ' .. ms)
    end
  end
end
