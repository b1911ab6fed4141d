-- Write one batch, tell everybody. Behind log.lua; KEYS[4] is for what becomes of the batch, missing where nobody will
-- ask. ARGV goes on: the sender's epoch, the batch's id, the sender, how many records, the body, how old (ms) a record may
-- become, and the instances the sender knows of. Returns the message's head and how many replicas are in step.
local KNOWN, ID, SENDER, COUNT, BODY, OLDEST = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local AT_ONCE = 1000 -- entries that one call trims at most

local fleet = {}
for at = 10, #ARGV do fleet[#fleet + 1] = ARGV[at] end

local function write(head)
  -- Numbers that may have been given to records which were lost then are not given again: somebody may still name them.
  local first = head.n + 1
  if head.era ~= era then first = (math.floor(head.n / LEAP) + 1) * LEAP end
  local last = first + COUNT - 1
  local said = table.concat({head.epoch, text(head.n), head.id, text(first), text(last), ID, SENDER, text(now)}, ' ')
  local message = said .. '\n' .. BODY
  local added = redis.pcall('XADD', LOG, text(last) .. '-0', 'id', ID, 'count', text(COUNT), 'at', text(now),
    'message', message)
  return type(added) == 'string', last, said, message
end

local head = heading()
if not head or born(head.epoch) < born(KNOWN) then head = renew(ARGV[3], KNOWN, fleet) end
local added, last, said, message = write(head)
if not added then -- there were higher numbers, which are none of ours
  head = renew(ARGV[3], head.epoch, fleet)
  added, last, said, message = write(head)
end

local records, floor, floor_id, trimmed, more = head.records + COUNT, head.floor, head.floor_id, 0, true
while more and trimmed < AT_ONCE do
  more = false
  for _, entry in ipairs(redis.call('XRANGE', LOG, '(' .. text(floor) .. '-0', '+', 'COUNT', 10)) do
    local number, count, at = number_of(entry), tonumber(field(entry, 'count')) or 0, tonumber(field(entry, 'at')) or 0
    more = number < last and (records > MOST or at < now - OLDEST * 1000)
    if not more then break end
    records, floor, floor_id, trimmed = records - count, number, field(entry, 'id') or '-', trimmed + 1
  end
end
if trimmed > 0 then redis.call('XTRIM', LOG, 'MINID', text(floor + 1) .. '-0') end

redis.call('HSET', META, 'n', text(last), 'id', ID, 'floor', text(floor), 'floor_id', floor_id, 'records', text(records),
  'era', era)
if KEYS[4] then
  redis.call('HSET', KEYS[4], '*', head.epoch .. ' ' .. text(last) .. ' ' .. text(now))
  redis.call('EXPIRE', KEYS[4], 3600)
end
redis.call('PUBLISH', CHANNEL, message)
return {said, replicas}
