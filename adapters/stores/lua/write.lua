-- Compare and set of one patient's record, with its token and its entry in the due index.
-- KEYS: record, due index [, token: the token is replaced or dropped]
-- ARGV: expected version or '', new version and record in one string, last instant at which the decision still holds,
--       keep-until, user key, due-at or '' [, token, instant at which it expires: absent where it is dropped]
-- Reply: 1, seconds, microseconds                            written
--        0, seconds, microseconds, stored value or nil       nothing changed
-- Needs Redis 6.2 for PXAT. Instants are milliseconds, far below 2^53, where Lua's numbers would lose them.
local VERSION_LENGTH = 8
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('GET', KEYS[1])
local version = ''
if stored then
    version = string.sub(stored, 1, VERSION_LENGTH)
    -- A value shorter than a version is none of ours: '' must mean that nothing is there.
    if version == '' then
        return {0, time[1], time[2], stored}
    end
end

-- This very write came before, and its answer was lost on the way: it has taken effect. The record is written once more
-- as it is: a WAIT that follows is about what its own connection has written, and would find nothing to wait for.
if version == string.sub(ARGV[2], 1, VERSION_LENGTH) then
    redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[4])
    return {1, time[1], time[2]}
end
if version ~= ARGV[1] or now > tonumber(ARGV[3]) then
    return {0, time[1], time[2], stored}
end

redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[4])
if ARGV[6] == '' then
    redis.call('ZREM', KEYS[2], ARGV[5])
else
    redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
    -- Where nobody sweeps, records are forgotten by their TTL and leave their entries behind. Those overdue for twice
    -- as long as a record outlives its deadline are such, and every write takes them along.
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 2 * (ARGV[4] - ARGV[6]))
end
if KEYS[3] then
    if ARGV[7] then
        redis.call('SET', KEYS[3], ARGV[7], 'PXAT', ARGV[8])
    else
        redis.call('DEL', KEYS[3])
    end
end
return {1, time[1], time[2]}
