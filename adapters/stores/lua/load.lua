-- Reads one patient.
-- KEYS: record [, token]
-- Reply: one string, 'seconds microseconds =stored value', or '-' after the times where there is none;
--        with the token asked for, that string and the token or nil.
-- One string and not a list: this is the most frequent call, and a list costs the client a tenth of it.
-- GET, not MGET: MGET takes a value of another type for nothing, and nothing would be written over.
local time = redis.call('TIME')
local stored = redis.call('GET', KEYS[1])
local row = time[1] .. ' ' .. time[2] .. (stored and ' =' .. stored or ' -')
if KEYS[2] then
    return {row, redis.call('GET', KEYS[2])}
end
return row
