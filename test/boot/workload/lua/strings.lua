-- Strings and tables: building, interning, patterns, sorting, garbage.
local function build(n)
    local parts, text = {}, ""
    for i = 1, n do
        parts[#parts + 1] = string.format("%05d-%x", i * 7919 % n, i)
        text = text .. string.char(97 + i % 26)
    end
    return table.concat(parts, ","), text
end

local function checksum(text)
    local a, b = 1, 0
    for i = 1, #text do
        a = (a + text:byte(i)) % 65521
        b = (b + a) % 65521
    end
    return b * 65536 + a
end

local function count_words(text)
    local seen, order = {}, {}
    for word in text:gmatch("%w+") do
        if not seen[word] then order[#order + 1] = word end
        seen[word] = (seen[word] or 0) + 1
    end
    table.sort(order, function(x, y)
        if seen[x] ~= seen[y] then return seen[x] > seen[y] end
        return x < y
    end)
    return table.concat(order, " ", 1, 5), #order
end

local function garbage(n)
    local kept = setmetatable({}, {__mode = "v"})
    local ring = {}
    for i = 1, n do
        local item = {i, tostring(i), {i * 2}}
        kept[i] = item
        ring[i % 100] = item
    end
    collectgarbage()
    local sum = 0
    for _, item in pairs(ring) do sum = sum + item[1] + #item[2] + item[3][1] end
    return sum
end

for round = 1, tonumber(arg[1]) do
    local joined, text = build(1000 + round)
    print("joined", #joined, checksum(joined))
    print("text", checksum(text:reverse():upper():rep(2, "|")))
    print("words", count_words(joined:gsub("%d%d%d", "%0 ")))
    print("replaced", checksum((joined:gsub("(%d)(%d)", "%2%1"))))
    print("garbage", garbage(10000))
    print("numbers", tostring(1e15 / 7), tonumber("0x1p4"), 2 ^ 53, -0.0, 1 / 3)
end
