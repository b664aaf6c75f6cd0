-- KEYS: values, revisions
-- ARGV: key
-- Its revision and its value.
local revision = redis.call('HGET', KEYS[2], ARGV[1])
if not revision then return false end
return {revision, redis.call('HGET', KEYS[1], ARGV[1])}
