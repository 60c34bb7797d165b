-- Adds counts to those that are kept, place by place, and halves them all where they sum up to more than they may.
-- KEYS: durations
-- ARGV: counts, as 'n n n ...'; the most that they may sum up to; seconds that they are kept from now on
-- Reply: what is kept now, in the same form
-- One string and not a hash: the user of the store needs no more commands for it. Where there are not as many kept as
-- come in, they were counted otherwise, by another version: they are forgotten.
local function numbers(text)
    local found = {}
    for number in string.gmatch(text, '%d+') do
        found[#found + 1] = tonumber(number)
    end
    return found
end
local counts = numbers(ARGV[1])
local kept = numbers(redis.call('GET', KEYS[1]) or '')
local sum = 0
for i = 1, #counts do
    if #kept == #counts then
        counts[i] = counts[i] + kept[i]
    end
    sum = sum + counts[i]
end
if sum > tonumber(ARGV[2]) then
    for i = 1, #counts do
        counts[i] = math.floor(counts[i] / 2)
    end
end
local text = table.concat(counts, ' ')
redis.call('SET', KEYS[1], text, 'EX', ARGV[3])
return text
