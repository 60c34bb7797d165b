-- Reads one patient, where GET and TIME by themselves could be answered by two servers: in a cluster, behind Sentinel.
-- KEYS: record [, token]
-- Reply: one string, 'seconds microseconds =stored value', or '-' after the times where there is none;
--        with the token asked for, that string and the token or nil.
-- One string and not a list, which costs the client a tenth of a frequent call.
-- GET, not MGET: MGET takes a value of another type for nothing, and nothing would be written over.
local time = redis.call('TIME')
local stored = redis.call('GET', KEYS[1])
local row = time[1] .. ' ' .. time[2] .. (stored and ' =' .. stored or ' -')
if KEYS[2] then
    return {row, redis.call('GET', KEYS[2])}
end
return row
