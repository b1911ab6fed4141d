#!lua flags=allow-oom
-- Hold a lease for longer.
--
-- KEYS  lease
-- ARGV  token, lease_ms
-- gives 1, or 0 where it is not ours any more

local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, #ARGV[1] + 1) ~= ARGV[1] .. ' ' then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
