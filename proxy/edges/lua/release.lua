#!lua flags=allow-oom
-- End a lease without having stored anything, if it is still ours, and tell those who wait; or drop a value.
--
-- KEYS  lease, waiters, value
-- ARGV  token                 '' for none: the value only
--       word                  for those who wait
--       channel               what precedes an instance's name
--       reason                why nobody need wait for this for a while, or ''
--       reason_ms             for how long
--       known_ms              how long ago that came which has proved outdated: the value goes too, unless
--                             it is newer. '' leaves it
--       epoch, n              how far the log had come for that
-- gives 1, or 0 where it was not ours any more

local token, word, channel, reason, reason_ms, known_ms, epoch, n = unpack(ARGV)

if token ~= '' then
    local lease = redis.call('GET', KEYS[1])
    if not lease or string.sub(lease, 1, #token + 1) ~= token .. ' ' then
        return 0
    end
end

local function is_newer(frame)
    local ok, magic, version, _, its_n, _, _, _, _, held, _, its_epoch, at =
        pcall(struct.unpack, '<c2BBddddddI4Bc0', frame)
    if not ok or magic ~= 'RT' or version ~= 1 or #frame < at + 15 then
        return false
    end
    if its_epoch == epoch and its_n ~= tonumber(n) then
        return its_n > tonumber(n)
    end
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    -- The same moment, told by way of two clocks: they may differ by what a command takes.
    return struct.unpack('<d', frame, at) - held > now - known_ms + 100
end

if known_ms ~= '' and not is_newer(redis.call('GETRANGE', KEYS[3], 0, 399)) then
    redis.call('UNLINK', KEYS[3])
end
if token == '' then
    return 1
end

if reason ~= '' then
    redis.call('SET', KEYS[1], '!' .. reason, 'PX', reason_ms)
else
    redis.call('DEL', KEYS[1])
end
for _, instance in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    redis.call('PUBLISH', channel .. instance, 'w' .. KEYS[1] .. '\n' .. token .. '\n' .. word)
end
redis.call('DEL', KEYS[2])
return 1
