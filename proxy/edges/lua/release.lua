#!lua flags=allow-oom
-- End a lease without having stored anything, if it is still ours, and tell those who wait.
--
-- KEYS  lease, waiters, value
-- ARGV  token
--       word                  for those who wait
--       channel               what precedes an instance's name
--       reason                why nobody need wait for this for a while, or ''
--       reason_ms             for how long
--       drop                  '1': the value goes too
-- gives 1, or 0 where it was not ours any more

local token, word, channel, reason, reason_ms, drop = unpack(ARGV)

local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, #token + 1) ~= token .. ' ' then
    return 0
end
if reason ~= '' then
    redis.call('SET', KEYS[1], '!' .. reason, 'PX', reason_ms)
else
    redis.call('DEL', KEYS[1])
end
if drop == '1' then
    redis.call('UNLINK', KEYS[3])
end
for _, instance in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    redis.call('PUBLISH', channel .. instance, 'w' .. KEYS[1] .. '\n' .. token .. '\n' .. word)
end
redis.call('DEL', KEYS[2])
return 1
