-- Says which store this is, and makes it one if it is none; a replica, which takes no changes, refuses this.
-- KEYS: store
-- ARGV: what it is called if it is new; a channel, if it is to be seen whether we may tell something
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1])
else
  -- a change that changes nothing, and that needs no memory
  redis.call('PERSIST', KEYS[1])
end
if ARGV[2] then redis.call('PUBLISH', ARGV[2], '') end
return redis.call('GET', KEYS[1])
