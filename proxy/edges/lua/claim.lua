#!lua flags=allow-oom
-- Look an answer up and, where there is none that is fresh, take the lease or queue up behind its holder.
--
-- KEYS  value, lease, waiters
-- ARGV  lease_ms, instance
--       claim                 'token epoch n' of who asks; '' to leave the lease alone
--       by_ms                 until when the asker waits for this, by Redis's clock, or ''
--       and then, or nothing where all are '' as they are most often:
--       known_ms              how long ago that came which the asker has itself, or ''
--       passed                the beginning of a value that the asker cannot use, or ''
--       overtaken             the token of a holder whose fetch a purge has overtaken, or ''
-- gives {'fresh', now_ms, value}, {'pointer', value}, {'lead', now_ms, value or nil}
--       {'held', token, epoch, n, lease_ms left, now_ms, value or nil}: one that may be served stale
--       {'alone', reason}
--       {'late'}: there would be a lease, and who asked may have given up

local lease_ms, instance, claim, by_ms = unpack(ARGV)
local known_ms, passed, overtaken = ARGV[5] or '', ARGV[6] or '', ARGV[7] or ''
local WAITERS = 2.5 -- leases: they ask again, and so are put down again, each time one ends

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A value that cannot be read is handed out as a stale one is: whoever asked finds out, and fetches.
local value = redis.call('GET', KEYS[1])
if value and passed ~= '' and string.sub(value, 1, #passed) == passed then
    value = false
end
local served = false
if value then
    local ok, magic, version, flags, _, fresh, stale, _, _, held, _, _, at =
        pcall(struct.unpack, '<c2BBddddddI4Bc0', value)
    if ok and magic == 'RT' and version == 1 and #value >= at + 24 then
        if flags % 2 == 1 then
            return {'pointer', value}
        end
        local stored = struct.unpack('<d', value, at)
        -- The same moment, told by way of two clocks: they may differ by what a command takes.
        if known_ms ~= '' and stored - held <= now - known_ms + 100 then
            value = false
        elseif stored + fresh > now then
            return {'fresh', now, value}
        else
            served = stored + stale > now and value
        end
    end
end
if claim == '' then
    return {'lead', now, value}
end

local lease = redis.call('GET', KEYS[2])
if lease then
    -- What none of us has written, or has no end, is nobody's.
    local left = redis.call('PTTL', KEYS[2])
    local reason = string.match(lease, '^!([%w-]+)$')
    local holder, its_epoch, its_n = string.match(lease, '^(%w+) ([%w-]+) (%d+)$')
    if reason and left >= 0 then
        return {'alone', reason}
    end
    if holder and holder ~= overtaken and left >= 0 and #its_n <= 15 then
        redis.call('SADD', KEYS[3], instance)
        redis.call('PEXPIRE', KEYS[3], math.ceil(lease_ms * WAITERS))
        return {'held', holder, its_epoch, its_n, left, now, served}
    end
end
if by_ms ~= '' and now > tonumber(by_ms) then
    return {'late'}
end
redis.call('SET', KEYS[2], claim, 'PX', lease_ms)
return {'lead', now, value}
