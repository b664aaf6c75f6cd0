-- Some of the values between two places of the index, so that a long list holds up nobody.
-- KEYS: values, revisions, index, last
-- ARGV: the first and the last place; most keys; from so many bytes on the page ends
-- The number of the last change of all; 1 if there may be more; then key, revision and value of each.
local last = redis.call('GET', KEYS[4]) or '0'
local page, bytes, more = {last, 0}, 0, 0
local keys = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
if #keys == tonumber(ARGV[3]) then more = 1 end
for _, key in ipairs(keys) do
  if bytes >= tonumber(ARGV[4]) then
    more = 1
    break
  end
  local revision, value = redis.call('HGET', KEYS[2], key), redis.call('HGET', KEYS[1], key)
  page[#page + 1] = key
  page[#page + 1] = revision
  page[#page + 1] = value
  bytes = bytes + #key + #(value or '')
end
page[2] = more
return page
