-- Lists what is due in one shard, longest overdue first, and removes entries whose record was forgotten.
-- KEYS: due index
-- ARGV: limit, what the keys of this shard's records begin with
-- Reply: user key, due-at, user key, due-at, ...
-- The records are not declared as keys, since their names are found here. They bear the hash tag of the index,
-- hence lie in its slot, which is all that Redis Cluster asks for.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
local due = {}
for i = 1, #found, 2 do
    if redis.call('EXISTS', ARGV[2] .. found[i]) == 1 then
        due[#due + 1] = found[i]
        due[#due + 1] = found[i + 1]
    else
        redis.call('ZREM', KEYS[1], found[i])
    end
end
return due
