-- Register an instance and say what it has missed. Behind log.lua. ARGV goes on: the instance, the epoch, number and
-- batch where it stands, for how long (ms) it trusts the answer, how many records it takes at once, and the instances it
-- knows of. Returns the time, how its place was found, epoch, the place that the messages follow on, number of the last
-- record, how many replicas are in step, name and end of life of who is alive, and the messages.
local INSTANCE, EPOCH, NUMBER, ID, TRUST, PAGE = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])
local LONGEST = 31536000000 -- ms, a year; no registration is meant to last so long

local head = heading()
local found = 'other'
if head and head.epoch == EPOCH then
  if NUMBER == head.n then
    found = ID == head.id and 'known' or 'lost'
  elseif NUMBER == head.floor then
    found = ID == head.floor_id and 'known' or 'lost'
  elseif NUMBER < head.floor then
    found = 'trimmed'
  else
    local entry = redis.call('XRANGE', LOG, text(NUMBER) .. '-0', text(NUMBER) .. '-0')[1]
    found = entry and field(entry, 'id') == ID and 'known' or 'lost'
  end
end
-- Lost: records that this instance has applied are not in the log, and others will never hear of them.
local fleet = {}
for at = 10, #ARGV do fleet[#fleet + 1] = ARGV[at] end
if not head or found == 'lost' or born(head.epoch) < born(EPOCH) then
  head, found = renew(ARGV[3], EPOCH, fleet), 'other'
end

-- What follows on a batch, up to a page; nil where one is missing between them, or is none of ours.
local function following(at, id)
  local messages, records = {}, 0
  while records < PAGE and at < head.n do
    local some = redis.call('XRANGE', LOG, '(' .. text(at) .. '-0', '+', 'COUNT', 20)
    if #some == 0 then return nil end
    for _, entry in ipairs(some) do
      local message, count = field(entry, 'message'), whole(field(entry, 'count'))
      local epoch, before, before_id, first, last, own, time =
        string.match(message, '^(%S+) (%d+) (%S+) (%d+) (%d+) (%S+) %S+ (%d+)\n')
      if not count or epoch ~= head.epoch or before ~= text(at) or before_id ~= id or not whole(first) or #time > 18
        or entry[1] ~= last .. '-0' or own ~= field(entry, 'id') then
        return nil
      end
      messages[#messages + 1] = message
      records, at, id = records + count, number_of(entry), own
      if records >= PAGE then break end
    end
  end
  return messages
end

local from, from_id = head.floor, head.floor_id
if found == 'known' then from, from_id = NUMBER, ID end
local messages = following(from, from_id)
if not messages then
  head, found = renew(ARGV[3], EPOCH, fleet), 'other'
  from, from_id, messages = head.floor, head.floor_id, {}
end

local ms = math.floor(now / 1000)
local place = found == 'known' and EPOCH .. ' ' .. text(NUMBER) or '- -1' -- what it says will be true once it says so
local own = place .. ' ' .. text(ms + TRUST + 1000)
local registered = redis.pcall('HSET', INSTANCES, INSTANCE, own)
if type(registered) == 'table' then -- the key is of another kind: whoever was registered there is waited for all the same
  register(fleet)
  redis.call('HSET', INSTANCES, INSTANCE, own)
end
local alive, all = {}, redis.call('HGETALL', INSTANCES)
for at = 1, #all, 2 do
  local ends = whole(string.match(all[at + 1], '^%S+ %-?%d+ (%d+)$') or '') -- none of ours, where it is anything else
  if not ends or ends < ms or ends > ms + LONGEST then
    redis.call('HDEL', INSTANCES, all[at])
  else
    alive[#alive + 1] = all[at]
    alive[#alive + 1] = text(ends)
  end
end
return {text(now), found, head.epoch, text(from), from_id, text(head.n), replicas, alive, messages}
