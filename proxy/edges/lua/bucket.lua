#!lua
-- One client's bucket: settle what its holder says of its lease, then pay what is asked for.
-- It has no allow-oom: whoever invents clients would make a Redis that is full grow without end.
--
-- KEYS  bucket, marker of its shard
-- ARGV  rate (tokens a second), burst, term_us (of a lease)
--       holder, serial   who calls, and the number of the call; one holder's numbers only grow
--       known, lost      the last call whose answer it has, and the last one whose answer it will never use
--       kept, back       tokens of its lease that it holds on to, and that it returns; the others are spent
--       debit            what it let pass on its own account; negative: what was paid and not used
--       batch, least     tokens it would like on lease, and how many are worth one
--       full_us          until when the bucket could not be full, as it last heard, or 0
--       marker, fresh    the marker it has seen, or '', and one to write where there is none
--       cost, count, …   what is to be paid now
-- gives 'marker full_us full_in left kept lease' and ' paid wait' for each cost: how many of them are paid, and the
--       seconds after which one more could be; '' for a call that a later one of this holder has overtaken
--
-- A bucket is 'tokens at_us' and ' holder serial kept granted end_us' for each lease. What is in it and what is out on
-- lease is never more than burst: refill stops there. A lease that ends unreturned is spent. A bucket is there until the
-- latest full_us that was given of it, though what came back may have filled it before: one that is missing earlier was
-- lost, and begins empty. A marker, 'id since_us', is never deleted by us: who knew another one says that this server
-- lost its data, and what is missing has filled since then.
local rate, burst, term = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local holder, serial, known, lost = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local kept, back, debit = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local batch, least, full = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local CLOSE = 1e-9 -- tokens that arithmetic may be wrong by

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local id, since = string.match(redis.call('GET', KEYS[2]) or '', '^(%w+) (%d+)$')
since = tonumber(since)
local other = not id or (ARGV[14] ~= '' and ARGV[14] ~= id and since == 0)
if other or since > now then -- the latter where the clock was set back
  id, since = id or ARGV[15], ARGV[14] == '' and not since and 0 or now
  redis.call('SET', KEYS[2], id .. ' ' .. string.format('%.0f', since))
end

local tokens, at, leases, out, mine = nil, now, {}, 0, nil
local state = redis.call('GET', KEYS[1])
if state then
  local words = {}
  for word in string.gmatch(state, '%S+') do words[#words + 1] = word end
  tokens, at = tonumber(words[1]), tonumber(words[2])
  for i = 3, #words - 4, 5 do
    local lease = {holder = words[i], serial = tonumber(words[i + 1]), kept = tonumber(words[i + 2]),
      granted = tonumber(words[i + 3]), ends = tonumber(words[i + 4])}
    if not (lease.serial and lease.kept and lease.granted and lease.ends) then tokens = nil break end
    lease.ends = math.min(lease.ends, now + term) -- where the clock was set back
    out = out + lease.kept + lease.granted
    leases[#leases + 1] = lease
  end
  if not tokens or not at then tokens, at, leases, out = 0, now, {}, 0 end
elseif now < full then
  tokens = 0
elseif since > 0 then
  tokens = math.min(burst, rate * math.max(0, now - since) / 1e6)
else
  tokens = burst
end

-- Refill, from one end of a lease to the next.
local function refill(moment)
  if moment > at then
    tokens, at = tokens + rate * (moment - at) / 1e6, moment
  end
  tokens = math.min(tokens, math.max(0, burst - out))
end
at = math.min(at, now)
table.sort(leases, function(a, b) return a.ends < b.ends end)
while leases[1] and leases[1].ends <= now do
  refill(leases[1].ends)
  out = out - leases[1].kept - leases[1].granted
  table.remove(leases, 1)
end
if not leases[1] then out = 0 end
refill(now)

for i, lease in ipairs(leases) do
  if lease.holder == holder then mine = i end
end
local total = 0
if mine then
  local lease = leases[mine]
  if serial <= lease.serial then return '' end
  total = lease.kept + lease.granted
  out = out - total
  if known < lease.serial and lease.serial <= lost then -- nobody has heard of this grant, nor ever will
    total, tokens = lease.kept, tokens + lease.granted
  end
  table.remove(leases, mine)
end
back = math.min(back, total)
kept = math.min(kept, total - back)
out = out + kept
tokens = tokens + back
if debit > 0 then
  tokens = math.max(tokens - debit, math.min(tokens, -burst))
elseif debit < 0 then
  tokens = math.max(tokens, math.min(tokens - debit, burst - out))
end

local paid, short = {}, false
for i = 16, #ARGV, 2 do
  local cost, count = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local n = math.max(0, math.min(count, math.floor((tokens + CLOSE) / cost)))
  tokens = tokens - n * cost
  short = short or n < count
  paid[#paid + 1] = n
end
local lease = math.min(batch, tokens / 2)
if short or lease < least or lease <= 0 then lease = 0 end
tokens, out = tokens - lease, out + lease
if kept + lease > 0 then
  leases[#leases + 1] = {holder = holder, serial = serial, kept = kept, granted = lease, ends = now + term}
end

-- When there will be `cost`, if nobody takes or returns anything before.
local function wait(cost)
  local have, moment, held = tokens, now, out
  for _, other in ipairs(leases) do
    local room = math.max(0, burst - held)
    local ready = moment + math.max(0, cost - have) / rate * 1e6
    if cost <= room and ready <= other.ends then return ready - now end
    have = math.max(have, math.min(room, have + rate * (other.ends - moment) / 1e6))
    moment, held = other.ends, held - other.kept - other.granted
  end
  return moment - now + math.max(0, cost - have) / rate * 1e6
end

local ends = leases[1] and leases[#leases].ends or now
full = ends + math.ceil(math.max(0, burst - tokens) / rate * 1e6)
if state or full > now then
  local words = {string.format('%.17g %.0f', tokens, at)}
  for _, one in ipairs(leases) do
    words[#words + 1] = string.format('%s %.0f %.17g %.17g %.0f', one.holder, one.serial, one.kept, one.granted, one.ends)
  end
  local due = math.max(math.ceil(full / 1000) + 1, redis.call('PEXPIRETIME', KEYS[1]))
  redis.call('SET', KEYS[1], table.concat(words, ' '), 'PXAT', string.format('%.0f', due))
end

local said = {string.format('%s %.0f %.6f %.17g %.17g %.17g', id, full, (full - now) / 1e6, tokens, kept, lease)}
for i, n in ipairs(paid) do
  local cost = tonumber(ARGV[14 + 2 * i])
  said[#said + 1] = string.format('%.0f %.6f', n, n < tonumber(ARGV[15 + 2 * i]) and wait(cost) / 1e6 + 1e-6 or 0)
end
return table.concat(said, ' ')
