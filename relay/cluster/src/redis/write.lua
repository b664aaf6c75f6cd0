-- Makes one change if what is there is what the caller expects, and tells those who watch.
-- KEYS: values, revisions, index, last
-- ARGV: key; what it expects: "any", "none" or a revision; the channel; the value, without which the key is deleted
-- The number of the change; 0 if there is nothing to do, -1 if something else is there.
local key, expected, channel, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HGET', KEYS[2], key)
if expected == 'none' then
  if known then return -1 end
elseif expected ~= 'any' and known ~= expected then
  return -1
end
if value then
  -- what the server may refuse comes before what changes a value
  local revision = redis.call('INCR', KEYS[4])
  redis.call('PUBLISH', channel, revision)
  redis.call('HSET', KEYS[1], key, value)
  redis.call('HSET', KEYS[2], key, revision)
  redis.call('ZADD', KEYS[3], 0, key)
  return revision
end
if not known then return 0 end
-- a server without memory left lets on who has given some back
redis.call('HDEL', KEYS[1], key)
redis.call('HDEL', KEYS[2], key)
redis.call('ZREM', KEYS[3], key)
local revision = redis.call('INCR', KEYS[4])
redis.call('PUBLISH', channel, revision)
return revision
