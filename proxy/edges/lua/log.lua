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
  return ''
end

local function number_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- The moment an epoch is named for. Names as such are compared as the server's locale has it.
local function born(epoch)
  return tonumber(string.match(epoch, '^%d+')) or 0
end

-- Put down instances that somebody knows of, as knowing nothing, where they are not registered.
local function register(fleet)
  for at = 1, #fleet - 1, 2 do
    local there = redis.pcall('HEXISTS', INSTANCES, fleet[at])
    if type(there) == 'table' then -- the key is of another kind
      redis.call('DEL', INSTANCES)
      there = 0
    end
    if there == 0 then redis.call('HSET', INSTANCES, fleet[at], '- -1 ' .. fleet[at + 1]) end
  end
end

-- A new log, later by name than `known`. `fleet` has name and end of life (ms) of the instances somebody knows of.
local function renew(candidate, known, fleet)
  local ms = math.max(math.floor(now / 1000), born(known) + 1)
  local head = {epoch = text(ms) .. '-' .. candidate, n = 0, id = '-', floor = 0, floor_id = '-', records = 0, era = era}
  redis.call('DEL', LOG, META)
  redis.call('HSET', META, 'epoch', head.epoch, 'n', '0', 'id', '-', 'floor', '0', 'floor_id', '-', 'records', '0',
    'era', era)
  register(fleet)
  redis.call('PUBLISH', CHANNEL, '')
  return head
end

-- A whole number that is exact here; nil for anything else.
local function whole(word)
  return #word < 16 and string.match(word, '^%d+$') and tonumber(word) or nil
end

-- What is said of the log; nil where there is none, it is none of ours, or it does not agree with the stream.
local function heading()
  local said = redis.pcall('HMGET', META, 'epoch', 'n', 'id', 'floor', 'floor_id', 'records', 'era')
  if said.err then return nil end
  for at = 1, 7 do
    if not said[at] then return nil end
  end
  local head = {
    epoch = said[1], n = whole(said[2]), id = said[3], floor = whole(said[4]), floor_id = said[5],
    records = whole(said[6]), era = said[7],
  }
  local named = string.match(head.epoch, '^%d+%-%w+$') and born(head.epoch) < 1e15
    and string.match(head.id, '^[!-~]+$') and string.match(head.floor_id, '^[!-~]+$')
  if not named or not head.n or not head.floor or not head.records or head.floor > head.n then return nil end
  local some = redis.pcall('XREVRANGE', LOG, '+', '-', 'COUNT', 1)
  if some.err then return nil end
  local last = some[1]
  local ends = last and last[1] == text(head.n) .. '-0' and field(last, 'id') == head.id
  if not ends and (last or head.n ~= 0) then return nil end
  return head
end
