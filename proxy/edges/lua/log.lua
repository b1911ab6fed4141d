#!lua flags=allow-oom
-- What append.lua and sync.lua have in common: each of them is run with this before it.
--
-- KEYS: the stream, what is said of it, the instances. ARGV: how many records it may have, the channel of records, an
-- epoch in case a new one is needed, then what the script behind this asks for.
--
-- The stream has an entry a batch; its id is the number of the batch's last record. What is said of it (epoch, number
-- and id of the last batch, the same of the last that was trimmed) must agree with it: one that was lost without the
-- other, or put back from long ago, makes a new epoch, in which nothing from before counts.
local LOG, META, INSTANCES, MOST, CHANNEL = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1]), ARGV[2]
local LEAP = 1000000000

local function text(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] -- microseconds

-- Whose data these are: another server's after a failover, another life's after a restart. A user may not be permitted
-- to ask; then records that such an event has lost can only be noticed by those that have them.
local info = redis.pcall('INFO', 'server', 'replication')
if type(info) ~= 'string' then info = '' end
local era = (string.match(info, 'run_id:(%w+)') or '') .. (string.match(info, 'master_replid:(%w+)') or '')
local _, replicas = string.gsub(info, 'state=online', '')

local function field(entry, name)
  for at = 1, #entry[2], 2 do
    if entry[2][at] == name then return entry[2][at + 1] end
  end
end

local function number_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- The moment an epoch is named for. Names as such are compared as the server's locale has it.
local function born(epoch)
  return tonumber(string.match(epoch, '^%d+')) or 0
end

-- A new log, later by name than `known`. `fleet` has name and end of life (ms) of the instances somebody knows of.
local function renew(candidate, known, fleet)
  local ms = math.max(math.floor(now / 1000), born(known) + 1)
  local head = {epoch = text(ms) .. '-' .. candidate, n = 0, id = '-', floor = 0, floor_id = '-', records = 0, era = era}
  redis.call('DEL', LOG, META)
  redis.call('HSET', META, 'epoch', head.epoch, 'n', '0', 'id', '-', 'floor', '0', 'floor_id', '-', 'records', '0',
    'era', era)
  for at = 1, #fleet, 2 do
    if redis.call('HEXISTS', INSTANCES, fleet[at]) == 0 then
      redis.call('HSET', INSTANCES, fleet[at], '- -1 ' .. fleet[at + 1])
    end
  end
  redis.call('PUBLISH', CHANNEL, '')
  return head
end

-- What is said of the log; nil where there is none, or it does not agree with the stream.
local function heading()
  local said = redis.call('HMGET', META, 'epoch', 'n', 'id', 'floor', 'floor_id', 'records', 'era')
  for at = 1, 7 do
    if not said[at] then return nil end
  end
  local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  local ends = last and number_of(last) == tonumber(said[2]) and field(last, 'id') == said[3]
  if not ends and (last or said[2] ~= '0') then return nil end
  return {
    epoch = said[1], n = tonumber(said[2]), id = said[3], floor = tonumber(said[4]), floor_id = said[5],
    records = tonumber(said[6]), era = said[7],
  }
end
