#!lua
-- Store what a fetch has brought, unless a later fetch was quicker, and tell those who wait.
-- It has no allow-oom: a Redis that is full refuses it.
--
-- KEYS  base, value (the same where there are no variants), lease, waiters
-- ARGV  token                 of the lease, '' for none
--       since_ms              how long ago the fetch began
--       ttl_ms, epoch, n
--       head, payload         of the frame
--       channel               what precedes an instance's name
--       word                  for those who wait
--       pointer_head, pointer_payload   only where there are variants
-- gives 1 where it is stored, 0 where something newer was

local token, since_ms, ttl_ms, epoch, n, head, payload, channel, word, pointer_head, pointer_payload = unpack(ARGV)
ttl_ms, n = tonumber(ttl_ms), tonumber(n)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local asked = now - since_ms

local function is_newer(key)
    local frame = redis.call('GETRANGE', key, 0, 399)
    local ok, magic, version, _, its_n, _, _, _, _, _, _, its_epoch, at =
        pcall(struct.unpack, '<c2BBddddddI4Bc0', frame)
    if not ok or magic ~= 'RT' or version ~= 1 then
        return false
    end
    -- A damaged one may claim anything, and must not stand in the way for as long as it lives.
    if string.sub(frame, at + 16, at + 23) ~= string.sub(redis.sha1hex(string.sub(frame, 1, at + 15)), 1, 8) then
        return false
    end
    if its_epoch == epoch and its_n ~= n then
        return its_n > n and its_n < 2 ^ 53
    end
    local _, its_asked = struct.unpack('<dd', frame, at)
    return its_asked > asked and its_asked <= now
end

local function store(key, first, rest, ttl)
    local sealed = first .. struct.pack('<dd', now, asked)
    redis.call('SET', key, sealed .. string.sub(redis.sha1hex(sealed), 1, 8) .. rest, 'PX', ttl)
end

local stored = 0
if not is_newer(KEYS[2]) then
    store(KEYS[2], head, payload, ttl_ms)
    stored = 1
end
if pointer_head and not is_newer(KEYS[1]) then
    -- It has to outlive every variant that it leads to.
    store(KEYS[1], pointer_head, pointer_payload, math.max(ttl_ms, redis.call('PTTL', KEYS[1])))
end

local lease = redis.call('GET', KEYS[3])
if token ~= '' and lease and string.sub(lease, 1, #token + 1) == token .. ' ' then
    redis.call('DEL', KEYS[3])
end
for _, instance in ipairs(redis.call('SMEMBERS', KEYS[4])) do
    redis.call('PUBLISH', channel .. instance, 'w' .. KEYS[3] .. '\n' .. token .. '\n' .. word)
end
redis.call('DEL', KEYS[4])
return stored
